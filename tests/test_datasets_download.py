"""UCF-101 is downloaded from a local server, unpacked by fake and real programs, and counted."""

import random
import shutil
import stat
import struct
import subprocess
import zlib

import pytest
from filelock import FileLock
from local_server import serving

from actionrec.datasets import download as module
from actionrec.datasets.download import download
from actionrec.datasets.ucf101 import open_ucf101
from actionrec.errors import ActionrecError

# Two classes, one of them with the odd spelling, 8 groups of 2 clips, of 20 kB each.
VIDEOS = {
    f"UCF-101/{folder}/v_{word}_g{group:02d}_c{clip:02d}.avi": random.Random(
        f"{word}{group}{clip}"
    ).randbytes(20_000)
    for folder, word in (("Archery", "Archery"), ("HandstandPushups", "HandStandPushups"))
    for group in range(1, 9)
    for clip in (1, 2)
}


def rar_of(files):
    """A RAR 4 archive of uncompressed files, which needs no program that packs."""

    def block(kind, flags, fields, data=b""):
        header = struct.pack("<BHH", kind, flags, 7 + len(fields)) + fields
        return struct.pack("<H", zlib.crc32(header) & 0xFFFF) + header + data

    blocks = [b"Rar!\x1a\x07\x00", block(0x73, 0, bytes(6))]
    for name, data in files.items():
        size, name, mode = len(data), name.replace("/", "\\").encode(), stat.S_IFREG | 0o644
        fields = struct.pack(
            "<IIBIIBBHI", size, size, 3, zlib.crc32(data), 0, 20, 0x30, len(name), mode
        )
        blocks.append(block(0x74, 0x8000, fields + name, data))
    return b"".join([*blocks, block(0x7B, 0x4000, b"")])


ARCHIVE = rar_of(VIDEOS)


@pytest.fixture
def server():
    with serving(ARCHIVE) as server:
        yield server


@pytest.fixture(autouse=True)
def source(server, monkeypatch):
    """Publish the data set "ucf101" at the local server."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(module, "URL", f"{server.url}/files/UCF101.rar")
    monkeypatch.setattr(module, "SIZE", len(ARCHIVE))
    monkeypatch.setattr(module, "UNPACKED_SIZE", 1_000_000)
    monkeypatch.setattr(module, "VIDEOS", len(VIDEOS))
    monkeypatch.setattr(module, "CLASSES", 2)


FAKE = """#!/bin/sh
echo "{program} $@" >> "{folder}/calls"
PATH=/usr/bin:/bin
{before}
for word in "$@"; do
    case "$word" in */.UCF-101.unpacking*) folder="${{word#-o}}" ;; esac
done
cp -R "{folder}/contents/." "$folder"
{after}
"""


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A PATH with nothing but fake programs, which "unpack" the files of VIDEOS.

    Their calls are listed in PATH/calls; `before` and `after` are shell commands.
    """
    folder = tmp_path / "bin"
    for name, contents in VIDEOS.items():
        path = folder / "contents" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents)
    monkeypatch.setenv("PATH", str(folder))

    def add(program, before="", after=""):
        script = folder / program
        script.write_text(FAKE.format(program=program, folder=folder, before=before, after=after))
        script.chmod(0o755)
        return folder / "calls"

    return add


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "the data"
    folder.mkdir()
    return folder


def files_below(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(".lock")
    }


def test_the_data_set_is_downloaded_unpacked_counted_and_opened(server, programs, root, capsys):
    programs("unar")
    assert download(root) == root / "UCF-101"
    assert files_below(root) == VIDEOS  # neither the archive nor temporary files are left
    opened = open_ucf101(root)
    assert (len(opened.train), len(opened.val)) == (4, 28)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "Downloading UCF101.rar (1 MB) from 127.0.0.1",
        f"Unpacking {root}/UCF101.rar with unar",
        f"{root}/UCF-101 is complete, {root}/UCF101.rar was deleted.",
    ]


def test_a_complete_data_set_is_left_alone(server, programs, root, capsys):
    programs("unar")
    download(root)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    server.asked.clear()
    assert download(root) == root / "UCF-101"
    # The folder itself may be named too, as open_ucf101 takes it.
    assert download(root / "UCF-101") == root / "UCF-101"
    assert server.asked == []
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert f"{root}/UCF-101 is complete, nothing is downloaded." in capsys.readouterr().err


def test_a_complete_archive_is_used_and_one_of_another_size_is_not_replaced(server, programs, root):
    programs("unar")
    (root / "UCF101.rar").write_bytes(ARCHIVE[:1000])
    with pytest.raises(ActionrecError, match=r"UCF101.rar has 1,000 bytes instead of the 64"):
        download(root)
    assert files_below(root) == {"UCF101.rar": ARCHIVE[:1000]}
    (root / "UCF101.rar").write_bytes(ARCHIVE)
    assert download(root) == root / "UCF-101"
    assert server.asked == [] and files_below(root) == VIDEOS


def test_an_incomplete_data_set_is_not_replaced(server, root):
    present = dict(VIDEOS)
    del present["UCF-101/Archery/v_Archery_g03_c01.avi"]
    present["UCF-101/HandstandPushups/v_Archery_g03_c01.avi"] = b"in the wrong folder"
    for name, contents in present.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(contents)
    with pytest.raises(ActionrecError) as caught:
        download(root)
    assert str(caught.value) == (
        f"{root}/UCF-101 is there but has 31 videos of 2 classes instead of 32 of 2; move it away "
        "or delete it to download ucf101 anew."
    )
    assert server.asked == [] and files_below(root) == present


def test_a_full_disk_is_noticed_before_the_download(server, programs, root, monkeypatch):
    programs("unar")
    usage = shutil._ntuple_diskusage(10**12, 10**12, 1_500_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ActionrecError, match=r"has 0.0 GB of free space, but ucf101 needs another"):
        download(root)
    assert server.asked == []
    # A part of the archive needs no more space.
    (root / "UCF101.rar.part").write_bytes(ARCHIVE[:300_000])
    assert download(root) == root / "UCF-101"


def test_a_folder_that_cannot_be_written_is_explained(programs, tmp_path):
    programs("unar")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ActionrecError, match="file/data could not be written"):
        download(tmp_path / "file" / "data")


def test_a_server_that_fails_is_explained(server, programs, root):
    programs("unar")
    server.statuses = [404]
    with pytest.raises(ActionrecError) as caught:
        download(root)
    assert str(caught.value) == (
        f"{server.url}/files/UCF101.rar could not be downloaded (the server answered 404): run "
        f"this again later to continue, or put the file there yourself as {root}/UCF101.rar."
    )


def test_two_downloads_to_one_folder_do_not_mix(server, programs, root):
    programs("unar")
    with FileLock(root / ".UCF101.rar.lock"):
        with pytest.raises(ActionrecError, match="Another actionrec is downloading UCF101.rar to"):
            download(root)
    assert server.asked == []


# Unpacking


@pytest.fixture
def archive(root):
    """A complete archive in `root`."""
    path = root / "UCF101.rar"
    path.write_bytes(ARCHIVE)
    return path


def test_without_a_program_nothing_is_downloaded(server, programs, root):
    with pytest.raises(ActionrecError) as caught:
        download(root)
    assert str(caught.value) == (
        "No program that unpacks UCF101.rar was found (one of unar, unrar, 7z, 7zz); "
        "install unar, with `apt install unar` or `brew install unar`, or another of them."
    )
    assert server.asked == []


@pytest.mark.parametrize("program", ["unar", "unrar", "7z", "7zz"])
def test_each_program_gets_its_arguments(archive, programs, root, program):
    calls = programs(program)
    assert download(root) == root / "UCF-101"
    assert files_below(root) == VIDEOS
    folder = f"{root}/.UCF-101.unpacking"
    assert calls.read_text().strip() in (
        f"unar -force-overwrite -no-directory -no-recursion -output-directory {folder} {archive}",
        f"unrar x -o+ -p- {archive} {folder}/",
        f"{program} x -y -o{folder} {archive}",
    )


def test_the_first_program_that_can_read_the_archive_is_taken(archive, programs, root):
    calls = programs("unar", before="echo no RAR >&2; exit 1")
    programs("unrar").with_name("unrar").write_text("not a program")
    programs("7z")
    programs("7zz")
    assert download(root) == root / "UCF-101"
    assert files_below(root) == VIDEOS
    assert [line.split()[0] for line in calls.read_text().splitlines()] == ["unar", "7z"]


def test_an_archive_that_no_program_unpacks_is_kept_and_each_is_quoted(archive, programs, root):
    programs("unar", after="echo all files; echo '1 file failed.'; exit 1")
    programs("unrar", before="echo warning; echo 'unrar: Solid archive. ' >&2; exit 1")
    programs("7z", after="exit 2")
    programs("7zz", after='rm "$folder/UCF-101/Archery/v_Archery_g02_c01.avi"')
    with pytest.raises(ActionrecError) as caught:
        download(root)
    assert str(caught.value) == (
        f"{archive} could not be unpacked (unar: 1 file failed; unrar: Solid archive; "
        "7z: it failed silently; 7zz: has 31 videos of 2 classes instead of 32 of 2); it was "
        "kept: install unar or unrar and run this again, or, if the archive is damaged, delete it "
        "to download it anew."
    )
    assert files_below(root) == {"UCF101.rar": ARCHIVE}


def test_files_that_a_killed_process_left_are_removed(archive, programs, root):
    left = root / ".UCF-101.unpacking" / "UCF-101" / "Archery"
    left.mkdir(parents=True)
    (left / "v_Archery_g09_c01.avi").write_bytes(b"half")
    programs("unar")
    download(root)
    assert files_below(root) == VIDEOS


@pytest.mark.parametrize("program", module.UNPACKERS)
def test_real_programs_unpack_and_notice_a_changed_byte(
    archive, root, tmp_path, monkeypatch, program
):
    if not (where := shutil.which(program)):
        pytest.skip(f"{program} is not installed")
    if program.startswith("7z"):
        formats = subprocess.run([where, "i"], capture_output=True, text=True).stdout
        if " Rar5 " not in formats:
            pytest.skip(f"this {program} was built without RAR")
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / program).symlink_to(where)
    monkeypatch.setenv("PATH", str(folder))
    position = ARCHIVE.index(VIDEOS["UCF-101/Archery/v_Archery_g03_c01.avi"]) + 5000
    damaged = bytearray(ARCHIVE)
    damaged[position] ^= 1
    archive.write_bytes(damaged)
    with pytest.raises(ActionrecError, match=f"could not be unpacked .{program}: "):
        download(root)
    archive.write_bytes(ARCHIVE)
    assert download(root) == root / "UCF-101"
    assert files_below(root) == VIDEOS
