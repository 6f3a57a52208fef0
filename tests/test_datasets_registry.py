"""Opening a data set lists folders and asks for no file's status: with hundreds of thousands of
files on a network disk each question would cost minutes."""

import os

import pytest

from actionrec.datasets.dataset import scan_files
from actionrec.datasets.registry import open_dataset
from actionrec.errors import ActionrecError

COUNT = 500


def ucf101(root):
    for n in range(COUNT):
        yield root / "Archery" / f"v_Archery_g{n % 25 + 1:02d}_c{n // 25 + 1:02d}.avi"


def folder(root):
    for n in range(COUNT):
        yield root / ("val" if n % 5 == 0 else "train") / "run" / "outside" / f"{n}.mp4"


def csv(root):
    (root / "videos.csv").write_text(
        "path,label,group\n" + "".join(f"videos/{n}.mp4,run,{n % 7}\n" for n in range(COUNT))
    )
    for n in range(COUNT):
        yield root / "videos" / f"{n}.mp4"


def kinetics(root):
    lines = {"train": [], "val": []}
    for n in range(COUNT):
        side = "val" if n % 5 == 0 else "train"
        lines[side].append(f"zumba,{n:011d},{n},{n + 10}\n")
        yield root / side / f"{n:011d}_{n:06d}_{n + 10:06d}.mp4"
    for side in lines:
        header = "label,youtube_id,time_start,time_end\n"
        (root / f"{side}.csv").write_text(header + "".join(lines[side]))


@pytest.mark.parametrize("make", [ucf101, folder, csv, kinetics])
def test_no_files_status_is_asked_for(make, tmp_path, monkeypatch):
    for path in make(tmp_path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    asked = []
    for name in ("stat", "lstat"):
        original = getattr(os, name)
        monkeypatch.setattr(
            os,
            name,
            lambda *args, _real=original, **more: asked.append(args) or _real(*args, **more),
        )
    dataset = open_dataset(make.__name__, tmp_path / "videos.csv" if make is csv else tmp_path)
    monkeypatch.undo()
    assert len(dataset.train) + len(dataset.val) == COUNT
    assert len(asked) < COUNT / 5


def test_videos_are_listed_to_the_given_depth_and_hidden_ones_passed_over(tmp_path):
    for name in ("a.MP4", ".b.mp4", "c.txt", "one/d.avi", ".two/e.avi", "one/three/f.avi"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "linked").symlink_to(tmp_path / "one/three")
    (tmp_path / "one/five.mp4").mkdir()
    (tmp_path / "one/five.mp4/g.avi").touch()
    assert list(scan_files(tmp_path, depth=0)) == [tmp_path / "a.MP4"]
    assert sorted(path.stem for path in scan_files(tmp_path, depth=1)) == ["a", "d", "f"]
    # Without a depth links are not followed, which could lead in a circle.
    assert sorted(path.stem for path in scan_files(tmp_path)) == ["a", "d", "f", "g"]
    assert tmp_path / "linked/f.avi" not in scan_files(tmp_path)


def test_folder_that_cannot_be_listed_is_one_clear_error(tmp_path):
    with pytest.raises(ActionrecError, match="nowhere can't be listed .*; check the path"):
        list(scan_files(tmp_path / "nowhere", depth=1))
