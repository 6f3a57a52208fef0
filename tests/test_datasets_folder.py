"""Class folders of the user's own, and what is said where the layout is another."""

import pytest

from actionrec.datasets.folder import open_folder
from actionrec.datasets.registry import open_dataset
from actionrec.errors import ActionrecError, UsageError


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def listed(root, videos):
    return [(video.path.relative_to(root).as_posix(), video.label) for video in videos]


def test_layout(tmp_path):
    touch(tmp_path, "train/b c/2.MP4", "train/b c/1.avi", "train/a/day 1/x.webm", "val/a/y.mov")
    touch(tmp_path, "train/a/.hidden.mp4", "train/a/.trash/z.mp4", "train/a/notes.txt")
    touch(tmp_path, "train/.cache/x.mp4", "val/b c/z.mkv", "test/a/t.mp4")
    dataset = open_dataset("folder", str(tmp_path))
    assert dataset.labels == ("a", "b c")
    assert listed(tmp_path, dataset.train) == [
        ("train/a/day 1/x.webm", 0),
        ("train/b c/1.avi", 1),
        ("train/b c/2.MP4", 1),
    ]
    assert listed(tmp_path, dataset.val) == [("val/a/y.mov", 0), ("val/b c/z.mkv", 1)]
    assert dataset.flip


@pytest.mark.parametrize("name", ["valid", "validate", "validation", "test"])
def test_names_of_the_validation_folder(tmp_path, name):
    touch(tmp_path, "train/a/x.mp4", f"{name}/a/y.mp4")
    assert listed(tmp_path, open_folder(tmp_path).val) == [(f"{name}/a/y.mp4", 0)]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], r"no folder train/ \(no folders at all\); expected are train/CLASS"),
        (["a/x.mp4", "b/x.mp4"], r"no folder train/ \(only a, b\); expected are train/CLASS"),
        (["train/a/x.mp4"], "no folder val, valid, validate, validation or test"),
        (["train/x.mp4", "val/a/x.mp4"], "train has no class folders"),
        (["train/a/x.mp4", "train/b/x.txt", "val/a/x.mp4"], "train has no videos in b;"),
        (["train/a/x.mp4", "val/a/x.mp4", "val/A/x.mp4"], "videos of A, which train/ lacks"),
        (["train/a/x.mp4", "val/x.mp4"], "val has no videos"),
    ],
)
def test_wrong_layout_is_one_clear_error(tmp_path, files, message):
    touch(tmp_path, *files)
    with pytest.raises(ActionrecError, match=message):
        open_folder(tmp_path)


def test_what_is_left_out_is_warned_of(tmp_path, caplog):
    touch(tmp_path, "train/a/x.mp4", "train/b/x.mp4", "train/loose.mp4", "val/a/x.mp4")
    (tmp_path / "val/empty").mkdir()
    assert open_folder(tmp_path).labels == ("a", "b")
    assert "left out: 1" in caplog.text and "loose.mp4" in caplog.text
    assert "has no videos of b" in caplog.text


def test_missing_folder_and_usage(tmp_path):
    with pytest.raises(ActionrecError, match="is not a folder"):
        open_dataset("folder", tmp_path / "nowhere")
    with pytest.raises(UsageError, match="add --root"):
        open_dataset("folder")
    with pytest.raises(UsageError, match="only one split"):
        open_dataset("folder", tmp_path, "2")
    with pytest.raises(UsageError, match="no data set 'films'"):
        open_dataset("films", tmp_path)


@pytest.mark.parametrize("name", ["run\x1b[2J", "run\x7f", "run\nwalk"])
def test_a_label_with_a_control_character_is_a_sentence(tmp_path, name):
    touch(tmp_path, f"train/{name}/x.mp4", f"val/{name}/y.mp4")
    with pytest.raises(ActionrecError) as refused:
        open_dataset("folder", tmp_path)
    sentence = f"{tmp_path} has the label {name!r} with a control character; rename it."
    assert str(refused.value) == sentence


def test_a_name_in_two_forms_of_unicode_is_one_class(tmp_path, caplog):
    touch(tmp_path, "train/caf\u00e9/x.mp4", "train/cafe\u0301/y.mp4", "val/cafe\u0301/z.mp4")
    touch(tmp_path, "train/caf\u00e9/notes.txt")
    with caplog.at_level("INFO"):
        dataset = open_folder(tmp_path)
    assert dataset.labels == ("caf\u00e9",)
    assert {video.path.name for video in dataset.train} == {"x.mp4", "y.mp4"}
    assert [video.label for video in dataset.train + dataset.val] == [0, 0, 0]
    assert "no videos by their names are passed over: 1, such as notes.txt" in caplog.text
