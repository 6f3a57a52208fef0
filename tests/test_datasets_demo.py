"""The demo videos: encoded like UCF-101, classes that only motion tells apart, safe to make."""

import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest

from actionrec.datasets.registry import demo, open_dataset
from actionrec.errors import ActionrecError

# Fewer groups than a user gets, so that the tests stay quick; 7 of them validate.
GROUPS = 12


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "GROUPS", GROUPS)
        patch.setattr(demo, "CLIPS", 1)
        return open_dataset("demo", tmp_path_factory.mktemp("made") / "demo")


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(demo, "MOTIONS", {"MoveLeft": (-1, 0, 0, 0), "Expand": (0, 0, 0, 1)})
    monkeypatch.setattr(demo, "GROUPS", 8)
    monkeypatch.setattr(demo, "CLIPS", 1)


def decode(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]


def test_videos_are_laid_out_and_encoded_like_ucf101(dataset):
    assert (dataset.name, dataset.flip, len(dataset.labels)) == ("demo", False, 8)
    assert (len(dataset.train), len(dataset.val)) == (8 * (GROUPS - 7), 8 * 7)
    assert {video.group for video in dataset.val} == {f"g0{n}" for n in range(1, 8)}
    assert not {v.group for v in dataset.val} & {v.group for v in dataset.train}
    for video in dataset.train + dataset.val:
        label = dataset.labels[video.label]
        assert video.path.parent.name == label
        assert video.path.name == f"v_{label}_{video.group}_c01.avi"
        with av.open(str(video.path)) as container:
            stream = container.streams.video[0]
            assert container.format.name == "avi"
            assert (stream.codec_context.name, stream.codec_context.codec_tag) == ("mpeg4", "XVID")
            assert (stream.width, stream.height) == (320, 240)
            assert stream.average_rate == Fraction(25)
            assert sum(1 for _ in container.decode(stream)) == demo.FRAMES


def motion_of(video):
    """Name the class by measuring the motion of the disc in the decoded frames."""
    frames = decode(video.path)[4:14]
    background, _, radius = demo._draw_appearance(int(video.group[1:]))
    background = background.mean(axis=2)
    rows, columns = np.mgrid[:240, :320]
    # A disc about (0, 0) of the cyclic frame, to find the middle of what isn't background.
    distance = np.hypot(np.minimum(rows, 240 - rows), np.minimum(columns, 320 - columns))
    disc = np.fft.fft2(distance <= radius)
    centres = []
    for frame in frames:
        changed = np.abs(frame - background) > 25
        match = np.fft.ifft2(np.fft.fft2(changed) * disc.conj()).real
        centres.append(np.unravel_index(match.argmax(), match.shape))
    steps = (np.diff(centres, axis=0) + (120, 160)) % (240, 320) - (120, 160)
    down, right = np.median(steps, axis=0)
    if abs(down) > 2:
        return "MoveDown" if down > 0 else "MoveUp"
    if abs(right) > 2:
        return "MoveRight" if right > 0 else "MoveLeft"

    row, column = np.median(centres, axis=0)
    radii = np.exp(np.linspace(np.log(14), np.log(56), 60))[:, None]
    angles = np.linspace(0, 2 * np.pi, 180, endpoint=False)[None, :]
    at_rows = (row + radii * np.sin(angles)).round().astype(int) % 240
    at_columns = (column + radii * np.cos(angles)).round().astype(int) % 320
    polar = [frame[at_rows, at_columns].astype(float) for frame in frames]

    def likeness(outwards, clockwise):
        pairs = zip(polar, polar[1:], strict=False)
        return sum(
            (np.roll(one, (outwards, clockwise), (0, 1))[5:-5] * two[5:-5]).sum()
            for one, two in ((a - a.mean(), b - b.mean()) for a, b in pairs)
        )

    shifts = {
        "Expand": max(likeness(n, 0) for n in range(2, 6)),
        "Contract": max(likeness(-n, 0) for n in range(2, 6)),
        "TurnClockwise": max(likeness(0, n) for n in range(1, 5)),
        "TurnCounterclockwise": max(likeness(0, -n) for n in range(1, 5)),
    }
    return max(shifts, key=shifts.get)


def test_every_class_moves_as_it_is_called(dataset):
    for video in (dataset.train + dataset.val)[::2]:
        assert motion_of(video) == dataset.labels[video.label], video.path.name


def test_a_single_frame_does_not_tell_the_class(dataset):
    """A linear classifier on single frames, which fits the training groups, stays near chance."""

    def frames_of(videos):
        frames = [f[::12, ::12].ravel() for v in videos for f in decode(v.path)[::4]]
        labels = [video.label for video in videos for _ in range(demo.FRAMES // 4)]
        return np.array(frames) / 255 - 0.5, np.array(labels)

    (train, train_labels), (val, val_labels) = frames_of(dataset.train), frames_of(dataset.val)
    # Ridge regression to one-hot targets in its dual form.
    gram = train @ train.T + 0.1 * np.eye(len(train))
    weights = train.T @ np.linalg.solve(gram, np.eye(8)[train_labels] - 1 / 8)
    assert ((train @ weights).argmax(axis=1) == train_labels).mean() > 0.9
    assert ((val @ weights).argmax(axis=1) == val_labels).mean() < 0.25


def test_frames_are_the_same_every_time():
    once, again = (demo.draw_frames("MoveUp", 3, 2) for _ in range(2))
    other = demo.draw_frames("MoveUp", 3, 1)
    assert np.array_equal(once, again) and not np.array_equal(once, other)


def test_making_is_completed_and_not_repeated(tmp_path, tiny):
    root = tmp_path / "demo"
    paths = [video.path for part in ("train", "val") for video in getattr(open_(root), part)]
    whole = {path: path.read_bytes() for path in paths}
    assert len(whole) == 16
    times = {path: path.stat().st_mtime_ns for path in paths}
    paths[0].unlink()
    open_(root)
    assert {path: path.read_bytes() for path in paths} == whole
    changed = [path for path in paths if path.stat().st_mtime_ns != times[path]]
    assert changed == [paths[0]]


def test_interrupted_making_is_completed(tmp_path, tiny, monkeypatch):
    root = tmp_path / "demo"
    write, calls = demo._write_video, []

    def interrupted(path, *args):
        calls.append(path)
        write(path, *args)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(demo, "_write_video", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_(root)
    assert len(list(root.rglob("*.avi"))) == 2
    assert all(len(decode(video.path)) == demo.FRAMES for video in open_(root).train)


def test_newer_version_makes_its_folder_anew(tmp_path, tiny, monkeypatch):
    old = open_(tmp_path).train[0].path
    before = old.read_bytes()
    monkeypatch.setattr(demo, "VERSION", demo.VERSION + 1)
    demo._draw_appearance.cache_clear()
    assert open_(tmp_path).train[0].path == old and old.read_bytes() != before
    demo._draw_appearance.cache_clear()


def test_folder_of_the_user_is_left_alone(tmp_path, tiny):
    (tmp_path / "holiday.avi").write_bytes(b"mine")
    with pytest.raises(ActionrecError, match="holds files that are not the demo data set"):
        open_(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.avi"]
    with pytest.raises(ActionrecError, match="is not a folder"):
        open_(tmp_path / "holiday.avi")


def test_damaged_marker(tmp_path, tiny):
    (tmp_path / demo.MARKER).write_text("{}")
    with pytest.raises(ActionrecError, match="can't be read; delete it"):
        open_(tmp_path)


def test_cache_is_used_without_a_root(tmp_path, tiny, monkeypatch):
    monkeypatch.setenv("ACTIONREC_CACHE", str(tmp_path))
    assert demo.open_demo().train[0].path.is_relative_to(tmp_path / "demo")


def test_two_at_once(tmp_path):
    code = (
        "import sys\n"
        "from actionrec.datasets.registry import demo\n"
        "demo.GROUPS, demo.CLIPS, demo.MOTIONS = 12, 1, {'MoveUp': (0, -1, 0, 0)}\n"
        "demo.open_demo(sys.argv[1])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "demo")]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    videos = list((tmp_path / "demo").rglob("*.avi"))
    assert len(videos) == 12
    assert all(len(decode(path)) == demo.FRAMES for path in videos)
    assert not list((tmp_path / "demo").rglob(".*.avi"))


def test_data_sets_import_without_heavy_packages():
    code = (
        "import sys\n"
        "from actionrec.datasets.registry import csv, demo, folder, ucf101\n"
        "print([name for name in ('torch', 'av', 'numpy', 'rich') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


def open_(root):
    return open_dataset("demo", root)
