"""Files at addresses: a sentence for what is wrong, and whole files or none."""

import pytest

from actionrec.errors import ActionrecError, UsageError
from actionrec.storage import Folder


@pytest.fixture
def folder(request):
    """A folder in fsspec's store in memory, of this test alone."""
    return Folder.at(f"memory://{request.node.name}/results")


def test_what_is_written_is_read_and_listed(folder, tmp_path):
    for place in (folder, Folder.at(str(tmp_path / "new" / "results"))):
        assert place.names() == []
        place.write("b.txt", b"two")
        place.write("a.txt", b"one")
        assert place.names() == ["a.txt", "b.txt"]
        assert place.read("a.txt") == b"one"
        assert not place.is_local or (tmp_path / "new" / "results" / "a.txt").is_file()


def test_a_write_that_fails_is_tried_again_with_fresh_credentials(folder, monkeypatch, caplog):
    failures = [OSError("the token has expired"), OSError("the token has expired")]
    put = type(folder.filesystem).pipe_file

    def pipe_file(self, path, data):
        if failures:
            raise failures.pop()
        put(self, path, data)

    monkeypatch.setattr(type(folder.filesystem), "pipe_file", pipe_file)
    with pytest.raises(ActionrecError, match=r"could not be written \(the token has expired\)"):
        folder.write("a.txt", b"one")
    folder.write("a.txt", b"one", waits=(0.01, 0.01))
    assert folder.read("a.txt") == b"one" and folder.names() == ["a.txt"]
    assert "Trying again" in caplog.text


def test_places_that_do_not_exist_are_sentences(folder, tmp_path):
    with pytest.raises(UsageError, match="nowhere://a can't be used"):
        Folder.at("nowhere://a")
    (tmp_path / "file").write_text("text")
    with pytest.raises(UsageError, match="is a file; name a folder"):
        Folder.at(str(tmp_path / "file")).names()


def test_a_store_whose_library_is_missing_is_a_sentence(monkeypatch):
    import fsspec.registry

    def refuse(protocol):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "get_filesystem_class", refuse)
    with pytest.raises(ActionrecError, match=r"pip install 'actionrec\[remote\]'"):
        Folder.at("s3://bucket/results")
