"""Broken files of every kind through check, train, evaluate and predict: no crash, no hang, each
named with its reason, and the healthy ones among them are used like any others.

All tests look at the same few runs of the command line over one data set. It holds every kind of
file below, by name, in training and in validation, and 300 that were damaged at random.
"""

import io
import json
import os
import re
import struct
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="makes links, pipes and forbidden files"),
]

X264 = {"bf": "3", "x264-params": "b-adapt=0:scenecut=0:keyint=12"}
# What the broken files are made of: arguments of `encode`, of 20 frames unless told otherwise.
SOURCES = {
    "plain.avi": {"codec": "mpeg4", "options": {"g": "8"}},
    "b_frames.avi": {"codec": "mpeg4", "options": {"bf": "2", "g": "600"}},
    "h264.mp4": {"codec": "libx264", "options": X264},
    "h264.mkv": {"codec": "libx264", "options": X264},
    "h264.ts": {"codec": "libx264", "options": X264},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"cpu-used": "8"}},
    "wmv2.wmv": {"codec": "wmv2", "size": (320, 240)},
    "large.avi": {"codec": "mpeg4", "size": (320, 240), "options": {"bf": "2"}},
    "five.avi": {"codec": "mpeg4", "frames": 5, "options": {"bf": "2"}},
    "one.mp4": {"codec": "libx264", "frames": 1, "options": X264},
}
# The sources that are damaged at random, and how many files that gives; one half of them trains.
RANDOM_SOURCES = ["plain.avi", "b_frames.avi", "h264.mp4", "h264.mkv", "h264.ts", "vp9.webm"]
RANDOM_VARIANTS = 300
SIDES = ("train", "val")
LABELS = ("jump", "run")
BATCH = 8


def cut(data: bytes, share: float) -> bytes:
    return data[: int(share * len(data))]


def hole(data: bytes, start: int, length: int) -> bytes:
    return data[:start] + data[start + length :]


def put(data: bytes, place: int, new: bytes) -> bytes:
    return data[:place] + new + data[place + len(new) :]


def replaced(data: bytes, old: bytes, new: bytes) -> bytes:
    """`old`, which must be there, everywhere replaced by `new` of the same length."""
    assert old in data and len(old) == len(new)
    return data.replace(old, new)


def flipped(data: bytes, start: int, end: int) -> bytes:
    return put(data, start, bytes(byte ^ 255 for byte in data[start:end]))


def zeroed_middle(data: bytes, start: bytes, end: bytes) -> bytes:
    """The middle third of what lies between two marks made zero."""
    first, last = data.index(start), data.rindex(end)
    third = (last - first) // 3
    return put(data, first + third, bytes(third))


def swapped_halves(data: bytes) -> bytes:
    return data[len(data) // 2 :] + data[: len(data) // 2]


def more_frames(avi: bytes) -> bytes:
    """Ten times as many frames in the stream's header (AVISTREAMHEADER.dwLength)."""
    place = avi.index(b"strh") + 8 + 32
    [frames] = struct.unpack_from("<I", avi, place)
    assert frames == 20
    return put(avi, place, struct.pack("<I", 10 * frames))


def more_seconds(mkv: bytes) -> bytes:
    """Ten times the duration: the element 0x4489, eight bytes long, a double."""
    place = mkv.index(b"\x44\x89\x88") + 3
    [duration] = struct.unpack_from(">d", mkv, place)
    assert duration == 800
    return put(mkv, place, struct.pack(">d", 10 * duration))


def huge_frames(avi: bytes) -> bytes:
    """8191x8191 instead of 64x48 pixels in the MPEG-4 header: 13 bits each, between marker bits."""
    start = avi.index(b"\x00\x00\x01\x20")
    bits = "".join(f"{byte:08b}" for byte in avi[start : start + 24])
    size = f"1{64:013b}1{48:013b}1"
    assert bits.count(size) == 1
    bits = bits.replace(size, f"1{8191:013b}1{8191:013b}1")
    return put(avi, start, int(bits, 2).to_bytes(24, "big"))


def huge_header(avi: bytes) -> bytes:
    """60000x60000 pixels in the header of the AVI (BITMAPINFOHEADER); the codec knows better."""
    return put(avi, avi.index(b"strf") + 8 + 4, struct.pack("<II", 60000, 60000))


def chunk(avi: bytes, frame: int) -> tuple[int, int]:
    """Where a frame's chunk begins, 8 bytes before its data, and the length of the data."""
    entry = avi.rindex(b"idx1") + 8 + 16 * frame
    offset, size = struct.unpack_from("<II", avi, entry + 8)
    return avi.index(b"movi") + offset, size


def zero_length_packets(avi: bytes) -> bytes:
    """Three chunks with the length 0, which say: as before. What was in them is filler now."""
    for frame in (5, 11, 18):
        start, size = chunk(avi, frame)
        filler = struct.pack("<4sI", b"JUNK", size + size % 2 - 8)
        avi = put(avi, start + 4, bytes(4) + filler)
        avi = put(avi, avi.rindex(b"idx1") + 8 + 16 * frame + 12, bytes(4))
    return avi


def damaged_frames(avi: bytes) -> bytes:
    """Zeros in the middle of some frames."""
    for frame in range(3, 20, 4):
        start, size = chunk(avi, frame)
        avi = put(avi, start + 8 + size // 2, bytes(size // 4))
    return avi


def swapped_times(webm: bytes) -> bytes:
    """Frames 9 and 10 have each other's time stamps; a block begins with track, time and flags."""
    heads = [struct.pack(">BhB", 0x81, 40 * frame, 0) for frame in (9, 10)]
    assert [webm.count(head) for head in heads] == [1, 1]
    places = [webm.index(head) for head in heads]
    return put(put(webm, places[0], heads[1]), places[1], heads[0])


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(file, "JPEG")
    return file.getvalue()


def zipped(data: bytes, how: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as archive:
        archive.writestr("video.avi", data)
    return file.getvalue()


def song(cover: bool) -> bytes:
    """A second of silence as MP4, with or without a picture, which is a video stream to FFmpeg."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=16000, layout="mono")
        if cover:
            picture = container.add_stream("mjpeg", rate=1)
            picture.width, picture.height, picture.pix_fmt = 64, 48, "yuvj420p"
            picture.disposition = Disposition.attached_pic
            container.mux(picture.encode(av.VideoFrame(64, 48, "yuvj420p")))
            container.mux(picture.encode(None))
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 16000), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 16000
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return file.getvalue()


def index_first(mp4: bytes) -> bytes:
    """The index (moov), which our encoder writes last, in front of the frames (mdat)."""
    frames, index = mp4.index(b"mdat") - 4, mp4.index(b"moov") - 4
    offsets = mp4.index(b"stco") + 12
    [chunks] = struct.unpack_from(">I", mp4, offsets - 4)
    for place in range(offsets, offsets + 4 * chunks, 4):
        [offset] = struct.unpack_from(">I", mp4, place)
        mp4 = put(mp4, place, struct.pack(">I", offset + len(mp4) - index))
    return mp4[:frames] + mp4[index:] + mp4[frames:index]


Sources = dict[str, bytes]
UNREADABLE = "could not be read as a video"
# By file name: what the reason says, and how the file is made of the sources.
BROKEN: dict[str, tuple[str, Callable[[Sources], bytes]]] = {
    "empty.mp4": ("is empty", lambda s: b""),
    "text.avi": (UNREADABLE, lambda s: b"This is no video.\n" * 100),
    "noise.avi": (UNREADABLE, lambda s: np.random.default_rng(0).bytes(5000)),
    "playlist.mp4": (UNREADABLE, lambda s: b"#EXTM3U\n#EXTINF:1,\nhealthy.avi\n"),
    "picture.mp4": ("is not a video", lambda s: jpeg()),
    "zip.avi": ("is not a video", lambda s: zipped(s["plain.avi"])),
    "deflated_zip.avi": (UNREADABLE, lambda s: zipped(s["h264.mp4"], zipfile.ZIP_DEFLATED)),
    "sound.mp4": ("has no video stream", lambda s: song(cover=False)),
    "song_with_cover.mp4": ("has no video stream", lambda s: song(cover=True)),
    "cut_in_the_header.avi": (UNREADABLE, lambda s: s["plain.avi"][:200]),
    "cut_before_the_frames.avi": (UNREADABLE, lambda s: cut(s["plain.avi"], 0.5)),
    "cut_at_85_percent.avi": ("cut off", lambda s: cut(s["plain.avi"], 0.85)),
    "cut_at_90_percent.avi": ("cut off", lambda s: cut(s["b_frames.avi"], 0.9)),
    "cut_before_the_index.mp4": (UNREADABLE, lambda s: cut(s["h264.mp4"], 0.5)),
    "cut_behind_the_index.mp4": (UNREADABLE, lambda s: cut(index_first(s["h264.mp4"]), 0.7)),
    "cut_at_70_percent.mkv": ("cut off", lambda s: cut(s["h264.mkv"], 0.7)),
    "cut_at_50_percent.webm": ("cut off", lambda s: cut(s["vp9.webm"], 0.5)),
    "hole.wmv": ("cut off", lambda s: hole(s["wmv2.wmv"], len(s["wmv2.wmv"]) // 2, 200)),
    "zeroed_middle.avi": ("cut off", lambda s: zeroed_middle(s["b_frames.avi"], b"movi", b"idx1")),
    "zeroed_middle.mp4": (UNREADABLE, lambda s: zeroed_middle(s["h264.mp4"], b"mdat", b"moov")),
    "flipped_header.avi": ("has no video stream", lambda s: flipped(s["plain.avi"], 12, 300)),
    "flipped_header.mkv": (UNREADABLE, lambda s: flipped(s["h264.mkv"], 0, 40)),
    "swapped_halves.avi": ("is damaged", lambda s: swapped_halves(s["plain.avi"])),
    "swapped_halves.mkv": (UNREADABLE, lambda s: swapped_halves(s["h264.mkv"])),
    "unknown_codec.avi": ("codec", lambda s: replaced(s["plain.avi"], b"FMP4", b"QQQQ")),
    "unknown_codec.mp4": ("codec", lambda s: replaced(s["h264.mp4"], b"avc1", b"qqqq")),
    "unknown_codec.mkv": ("codec", lambda s: replaced(s["h264.mkv"], b"V_MPEG4", b"V_QQQQQ")),
    "huge_frames.avi": (UNREADABLE, lambda s: huge_frames(s["plain.avi"])),
}
# What is no regular file, or one that we may not read: the reason, and how it is made.
SPECIAL: dict[str, tuple[str, Callable[[Path], None]]] = {
    "dangling_link.avi": ("is not a file", lambda path: path.symlink_to("gone.avi")),
    "link_to_itself.avi": ("is not a file", lambda path: path.symlink_to(path.name)),
    "pipe.avi": ("is not a file", lambda path: os.mkfifo(path)),
    "forbidden.avi": ("may not be read", lambda path: (path.write_bytes(b"RIFF"), path.chmod(0))),
}
# Frames can be had from these; that some are damaged is seen only by decoding all of them.
DAMAGED_INSIDE: dict[str, Callable[[Sources], bytes]] = {
    "damaged_frames.avi": lambda s: damaged_frames(s["large.avi"]),
}
# Nothing is wrong with these; how many frames each has.
HEALTHY: dict[str, tuple[int, Callable[[Sources], bytes]]] = {
    "healthy.avi": (20, lambda s: s["b_frames.avi"]),
    "healthy.mkv": (20, lambda s: s["h264.mkv"]),
    "healthy.ts": (20, lambda s: s["h264.ts"]),
    "healthy.wmv": (20, lambda s: s["wmv2.wmv"]),
    "index_first.mp4": (20, lambda s: index_first(s["h264.mp4"])),
    "five_frames.avi": (5, lambda s: s["five.avi"]),
    "one_frame.mp4": (1, lambda s: s["one.mp4"]),
    "an_mp4_called.avi": (20, lambda s: s["h264.mp4"]),
    "an_avi_called.mp4": (20, lambda s: s["plain.avi"]),
    "huge_header.avi": (20, lambda s: huge_header(s["plain.avi"])),
    "more_frames.avi": (20, lambda s: more_frames(s["plain.avi"])),
    "more_seconds.mkv": (20, lambda s: more_seconds(s["h264.mkv"])),
    "swapped_times.webm": (20, lambda s: swapped_times(s["vp9.webm"])),
    "zero_length_packets.avi": (17, lambda s: zero_length_packets(s["plain.avi"])),
}


def damaged_at_random(data: bytes, number: int) -> tuple[str, bytes]:
    """The file cut, with a hole, or with some bits flipped, and in a word which."""
    generator = np.random.default_rng(number)
    bits = {"one_bit": 1, "eight_bits": 8, "header": 8, "many_bits": 200}
    how = ["cut", "hole", *bits][number % 6]
    if how == "cut":
        return how, data[: generator.integers(1, len(data))]
    if how == "hole":
        return how, hole(data, generator.integers(0, len(data)), generator.integers(1, 300))
    damaged = np.frombuffer(data, np.uint8).copy()
    end = min(1000, len(data)) if how == "header" else len(data)
    places = generator.integers(0, end, bits[how])
    flips = 1 << generator.integers(0, 8, len(places))
    np.bitwise_xor.at(damaged, places, flips.astype(np.uint8))
    return how, damaged.tobytes()


@dataclass(frozen=True)
class Files:
    """A data set in class folders. `named` are the two files of each kind, one to train and one to
    validate on; `folder` is a folder among them that is called like a video."""

    root: Path
    named: dict[str, list[Path]]
    folder: Path

    def of(self, side: str) -> list[Path]:
        """The videos of train or val, in the order of the data set."""
        return sorted(path for path in (self.root / side).rglob("*.*") if path != self.folder)

    @property
    def all(self) -> list[Path]:
        return self.of("train") + self.of("val")


@pytest.fixture(scope="module")
def sources(tmp_path_factory, encode) -> Sources:
    folder = tmp_path_factory.mktemp("sources")
    contents = {}
    for name, settings in SOURCES.items():
        try:
            av.codec.Codec(settings["codec"], "w")
        except av.error.FFmpegError:
            pytest.skip(f"this PyAV has no encoder {settings['codec']}")
        path = encode(folder / name, **{"frames": 20} | settings)
        contents[name] = path.read_bytes()
    return contents


@pytest.fixture(scope="module")
def files(tmp_path_factory, sources) -> Files:
    """Each class has broken and healthy videos to train and to validate on."""
    root = tmp_path_factory.mktemp("broken_files")
    for side in SIDES:
        for label in LABELS:
            (root / side / label).mkdir(parents=True)
    makers = {name: make for name, (_, make) in (BROKEN | HEALTHY).items()} | DAMAGED_INSIDE
    contents = {name: make(sources) for name, make in makers.items()}
    named = {}
    for number, name in enumerate([*contents, *SPECIAL]):
        # Each kind is of the one class in training and of the other one in validation.
        classes = LABELS if number % 2 else LABELS[::-1]
        named[name] = [
            root / side / label / name for side, label in zip(SIDES, classes, strict=True)
        ]
        for path in named[name]:
            if name in SPECIAL:
                SPECIAL[name][1](path)
            else:
                path.write_bytes(contents[name])
    for number in range(RANDOM_VARIANTS):
        name = RANDOM_SOURCES[number // 6 % len(RANDOM_SOURCES)]
        how, data = damaged_at_random(sources[name], number)
        folder = root / SIDES[number % 2] / LABELS[number // 2 % 2]
        (folder / f"{number:03}_{how}_{name}").write_bytes(data)
    files = Files(root, named, root / "val" / "run" / "folder.avi")
    files.folder.mkdir()
    # Training leaves out a last batch that is not full, but is to meet every file.
    for number in range(-len(files.of("train")) % BATCH):
        (root / "train" / "run" / f"more{number}.avi").write_bytes(sources["plain.avi"])
    return files


@pytest.fixture(scope="module")
def actionrec(command, tmp_path_factory):
    """Run the command line with a cache of its own."""
    environment = os.environ | {"ACTIONREC_CACHE": str(tmp_path_factory.mktemp("cache"))}
    return lambda *arguments: command(*arguments, env=environment)


def train(actionrec, files: Files, output: Path) -> subprocess.CompletedProcess:
    settings = "--backbone c3d_small --weights none --block none --clip-length 4 --short-side 36 "
    settings += f"--crop 32 --epochs 1 --batch-size {BATCH} --max-bad 1 --workers 1"
    flags = ["--dataset", "folder", "--root", files.root, "--output", output]
    return actionrec("train", *flags, *settings.split())


@dataclass(frozen=True)
class Outcome:
    """A run of the command line, and the reasons that it gave, by path."""

    run: subprocess.CompletedProcess
    bad: dict[str, str]
    result: object = None


def by_video(failures: list[dict[str, str]]) -> dict[str, str]:
    assert len({failure["video"] for failure in failures}) == len(failures)
    return {failure["video"]: failure["error"] for failure in failures}


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs") / "unchecked"


@pytest.fixture(scope="module")
def trained(actionrec, files, output) -> Outcome:
    """Training before there is a report."""
    run = train(actionrec, files, output)
    assert (output / "model.safetensors").is_file(), run.stderr
    return Outcome(run, by_video(json.loads((output / "bad_videos.json").read_text())))


@pytest.fixture(scope="module")
def evaluated(actionrec, files, output, trained) -> Outcome:
    """Evaluation before there is a report."""
    flags = ["--dataset", "folder", "--root", files.root, "--clips", "2", "--format", "json"]
    run = actionrec("evaluate", "--model", output / "model.safetensors", *flags)
    result = json.loads(run.stdout)
    return Outcome(run, by_video(result["skipped"]), result)


@pytest.fixture(scope="module")
def checked(actionrec, files, trained, evaluated) -> Outcome:
    """The check, after what was to be run without its report."""
    assert not (files.root / "actionrec_check.json").exists()
    flags = ["--root", files.root, "--timeout", "60", "--format", "json"]
    run = actionrec("data", "check", "folder", *flags)
    report = json.loads(run.stdout)
    bad = {str(files.root / key): found["reason"] for key, found in report["bad"].items()}
    return Outcome(run, bad, report)


@pytest.fixture(scope="module")
def retrained(actionrec, files, output, checked) -> Outcome:
    """Training with the report."""
    again = output.with_name("checked")
    run = train(actionrec, files, again)
    return Outcome(run, by_video(json.loads((again / "bad_videos.json").read_text())))


@pytest.fixture(scope="module")
def predicted(actionrec, files, output, trained) -> Outcome:
    """Prediction of each file by name, and of the folder that is called like a video."""
    paths = [*files.all, files.folder]
    flags = ["--clips", "2", "--format", "json"]
    run = actionrec("predict", *paths, "--model", output / "model.safetensors", *flags)
    result = json.loads(run.stdout)
    return Outcome(run, by_video([entry for entry in result if "error" in entry]), result)


VERBS = ["trained", "evaluated", "checked", "retrained", "predicted"]


def sentence(reason: str, path: Path) -> bool:
    """Whether it is one sentence that begins with the file, as every complaint is to be."""
    return reason.startswith(f"{path} ") and reason.endswith(".") and "\n" not in reason


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_crashes_and_the_exit_code_tells(verb, request):
    outcome = request.getfixturevalue(verb)
    # A training that ends well is done: its bad videos, fewer than --max-bad, are a warning.
    assert outcome.bad and outcome.run.returncode == (0 if "trained" in verb else 1)
    assert "Traceback" not in outcome.run.stderr + outcome.run.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_each_file_that_failed_is_named_once_with_one_sentence(verb, request, files):
    outcome = request.getfixturevalue(verb)
    known = {str(path): path for path in [*files.all, files.folder]}
    assert all(sentence(reason, known[path]) for path, reason in outcome.bad.items())
    lines = outcome.run.stderr.splitlines()
    told = Counter(path for path in known for line in lines if f" {path} " in line)
    # The check prints its findings as the result, not as complaints.
    assert told == Counter([] if verb == "checked" else list(outcome.bad))


@pytest.mark.parametrize("name", [*BROKEN, *SPECIAL])
def test_a_broken_file_gets_the_same_fitting_reason_from_every_verb(name, request, files):
    if name == "forbidden.avi" and os.access(files.named[name][0], os.R_OK):
        pytest.skip("this user, such as root, may read every file")
    reason, _ = (BROKEN | SPECIAL)[name]
    for verb in VERBS:
        bad = request.getfixturevalue(verb).bad
        for path in files.named[name][verb == "evaluated" :]:
            assert reason in bad.get(str(path), "no error"), verb
            assert bad[str(path)] == request.getfixturevalue("checked").bad[str(path)], verb


@pytest.mark.parametrize("name", DAMAGED_INSIDE)
def test_a_file_of_which_only_some_frames_are_wrong_is_found_by_the_check(
    name, files, checked, retrained
):
    for path in files.named[name]:
        key = path.relative_to(files.root).as_posix()
        assert re.search(r"make up parts of \d+ of its 20 frames", checked.result["damaged"][key])
        assert str(path) not in checked.bad and str(path) not in retrained.bad


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_file_is_used_however_short_or_called(name, request, files):
    frames, _ = HEALTHY[name]
    good = request.getfixturevalue("checked").result["good"]
    for path in files.named[name]:
        reasons = {verb: request.getfixturevalue(verb).bad.get(str(path)) for verb in VERBS}
        assert reasons == dict.fromkeys(VERBS)
        assert good[path.relative_to(files.root).as_posix()][2] == frames


def test_a_folder_called_like_a_video_is_no_video(files, checked, predicted):
    assert "has no videos in it" in predicted.bad[str(files.folder)]
    assert files.folder.relative_to(files.root).as_posix() not in checked.result["bad"]


def test_the_check_judges_every_file_and_gives_none_up(files, checked):
    keys = {path.relative_to(files.root).as_posix() for path in files.all}
    good, bad = checked.result["good"].keys(), checked.result["bad"].keys()
    assert good | bad == keys and not good & bad and checked.result["checked"] == len(keys)
    # That would be a file on which the decoder hangs, crashes or takes up all memory.
    assert [key for key, found in checked.result["bad"].items() if found["given_up"]] == []


def test_what_any_verb_cannot_read_the_check_calls_bad(
    files, trained, evaluated, checked, predicted
):
    """And more: it decodes every frame, the others only those that they need."""
    for outcome in (trained, evaluated, predicted):
        assert outcome.bad.keys() - {str(files.folder)} <= checked.bad.keys()


def test_training_after_a_check_leaves_out_exactly_what_it_calls_bad(files, checked, retrained):
    assert retrained.bad == checked.bad
    sentences = [line for line in retrained.run.stderr.splitlines() if "are left out" in line]
    report = files.root / "actionrec_check.json"
    assert sentences == [
        f"{len(checked.bad)} of {len(files.all)} videos are left out, because they are bad by "
        f"{report}."
    ]


def test_evaluation_counts_every_video_as_scored_or_skipped(files, evaluated):
    videos = files.of("val")
    scored = [path for path in videos if str(path) not in evaluated.bad]
    assert evaluated.result["video"]["n"] == len(scored)
    assert evaluated.result["protocol"]["videos"] == len(videos)
    assert evaluated.bad.keys() <= set(map(str, videos))
    by_class = Counter(path.parent.name for path in scored)
    found = evaluated.result["per_class"]
    assert {label: share["videos"] for label, share in found.items()} == by_class


def test_prediction_gives_each_file_in_turn_a_class_of_the_model_or_an_error(files, predicted):
    videos = [entry["video"] for entry in predicted.result]
    assert videos == list(map(str, [*files.all, files.folder]))
    for entry in predicted.result:
        if "error" not in entry:
            assert sorted(score["label"] for score in entry["top"]) == sorted(LABELS)
            assert sum(score["score"] for score in entry["top"]) == pytest.approx(1, abs=1e-5)


# In a process of its own: a decoder that crashes or hangs must not take the tests with it.
READ_TWICE = """
import json, sys
import numpy as np
from actionrec.errors import VideoError
from actionrec.video.reader import VideoReader
outcomes = {}
for path in sys.argv[1:]:
    try:
        video = VideoReader(path)
        frames = video.read(range(len(video)))
        same = np.array_equal(frames, VideoReader(path).read(range(len(frames))))
        outcomes[path] = [len(video), len(frames), same]
    except VideoError as error:
        outcomes[path] = str(error)
print(json.dumps(outcomes))
"""


@pytest.fixture(scope="module")
def read(files) -> dict[str, str | list]:
    """For each file the error, or how many frames it has, gave, and whether twice the same."""
    arguments = [sys.executable, "-c", READ_TWICE, *files.all]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_a_file_that_the_check_calls_good_gives_all_its_frames_each_time(files, checked, read):
    for key, (_, _, frames) in checked.result["good"].items():
        assert read[str(files.root / key)] == [frames, frames, True], key


def test_a_file_that_the_reader_refuses_is_called_bad_by_the_check(checked, read):
    assert {path for path, found in read.items() if isinstance(found, str)} <= checked.bad.keys()
