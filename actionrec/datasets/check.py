"""Find the broken videos of a data set before training meets them.

    actionrec data check ucf101 --root UCF-101

Every frame of every video is decoded. The findings are kept in a report: actionrec_check.json in
the data set's folder, for a CSV file NAME.check.json beside it, or in the cache if the file stands
at an address. It is JSON:

    {"version": 1, "dataset": "ucf101", "checked": 13320,
     "bad": {"Archery/v_Archery_g01_c01.avi":
             {"reason": "... was cut off ...", "size": 1234, "mtime_ns": 5678, "given_up": false}},
     "good": {"Archery/v_Archery_g01_c02.avi": [290110, 5678, 164]},
     "damaged": {"Archery/v_Archery_g01_c02.avi": "the decoder had to make up parts of ..."}}

Paths are relative to the report's folder, or absolute where the video lies elsewhere. Good videos
have their size in bytes, modification time in ns, and number of frames. `size` and `mtime_ns` are
null where there is no file, and `mtime_ns` stands for the version of a file at an address;
`given_up` means that the process which read the file was killed or
died. Good videos that are damaged but readable are in `damaged` as well; training, evaluation and
prediction read them.

A segment that is not in its video is bad too, under the video's path and its times:
videos/match.mp4#t=12.5,15.

A video of unchanged size and modification time is not decoded again, unless it was given up, which
depends on the machine and the limits too. Training and evaluation leave out the bad videos.
"""

import json
import logging
import os
import stat
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from actionrec.datasets.dataset import LabelledVideo, VideoDataset
from actionrec.datasets.registry import dataset_kind, open_dataset
from actionrec.errors import ActionrecError, Failure, VideoError
from actionrec.files import cache_folder, short_enough, write_whole
from actionrec.processes import STANDARD_LIMITS, Limits, WorkerError, run_each_with_progress
from actionrec.text import json_text
from actionrec.video.address import (
    FRAMES,
    Address,
    VideoPath,
    beside,
    frame_folder_of,
    frames_address,
    video_path,
)
from actionrec.video.block_cache import key_of
from actionrec.video.parts import VideoSegment
from actionrec.video.reader import VideoReader
from actionrec.video.segments import frames_of

logger = logging.getLogger("actionrec")

VERSION = 1
REPORT = "actionrec_check.json"
THREADS = 16

Content = TypeVar("Content")


class FileState(NamedTuple):
    """Size of a file in bytes and modification time in ns; both None where there is no file.

    Of a folder of frames, the time is that of what was modified last: a frame that is overwritten
    leaves the folder's own.
    """

    size: int | None = None
    mtime_ns: int | None = None

    @classmethod
    def of(cls, path: VideoPath) -> "FileState":
        try:
            found = path.stat()
            modified = found.st_mtime_ns
            if isinstance(path, Address):
                folder = frame_folder_of(path)[0] if path.scheme == FRAMES else None
            else:
                folder = path if stat.S_ISDIR(found.st_mode) else None
            if folder is not None:
                with os.scandir(folder) as frames:
                    modified = max([modified, *(frame.stat().st_mtime_ns for frame in frames)])
        except (OSError, VideoError):
            return cls()
        return cls(found.st_size, modified)


@dataclass(frozen=True)
class Finding:
    """The result of decoding a video: its number of frames, or the reason why it is bad, as a
    sentence.

    `damage`: what is wrong with a video that can be read, as a part of a sentence.
    `given_up`: the process that read it was killed or died.
    """

    file: FileState
    frames: int | None = None
    reason: str | None = None
    given_up: bool = False
    damage: str = ""


@dataclass
class Report:
    """The findings of a check by the path of the video."""

    dataset: str
    findings: dict[str, Finding] = field(default_factory=dict)

    @property
    def bad(self) -> dict[str, Finding]:
        return {key: found for key, found in self.findings.items() if found.reason is not None}

    @property
    def damaged(self) -> dict[str, str]:
        """What is wrong with videos that can be read."""
        return {key: found.damage for key, found in sorted(self.findings.items()) if found.damage}

    def to_json(self) -> dict[str, object]:
        """The report in the form that the module's docstring describes."""
        bad, good = {}, {}
        for key, found in sorted(self.findings.items()):
            if found.reason is None:
                good[key] = [*found.file, found.frames]
            else:
                state = found.file._asdict()
                bad[key] = {"reason": found.reason, **state, "given_up": found.given_up}
        head = {"version": VERSION, "dataset": self.dataset, "checked": len(self.findings)}
        return head | {"bad": bad, "good": good, "damaged": self.damaged}

    def save(self, path: Path) -> None:
        """Write the report; an ActionrecError where the folder can't be written."""
        write_whole(path, json_text(self.to_json()))

    @classmethod
    def load(cls, path: Path) -> "Report | None":
        """The report at `path`, None if there is none; an ActionrecError as of `load_json`."""

        def parse(values: dict[str, Any]) -> Report:
            damaged = values.get("damaged", {})
            findings = {
                key: Finding(FileState(size, mtime_ns), frames, damage=damaged.get(key, ""))
                for key, (size, mtime_ns, frames) in values["good"].items()
            }
            for key, bad in values["bad"].items():
                file = FileState(bad["size"], bad["mtime_ns"])
                findings[key] = Finding(file, None, str(bad["reason"]), bool(bad["given_up"]))
            return cls(str(values["dataset"]), findings)

        title = "a report of `actionrec data check`"
        return load_json(path, VERSION, parse, title, "delete it and check again")


def load_json(
    path: Path, version: int, parse: Callable[[dict[str, Any]], Content], title: str, advice: str
) -> Content | None:
    """Read a JSON file that has a version; None if there is no file.

    Raises:
        ActionrecError: `parse` can't make sense of its values, or it is of another version.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if (found := values.pop("version")) != version:
            raise ValueError(f"version {found}, not {version}")
        return parse(values)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ActionrecError(
            f"{path} can't be read as {title} ({type(error).__name__}: {error}); {advice}."
        ) from error


@dataclass(frozen=True)
class CheckResult:
    """The report on the requested videos, and the file of the whole report, None where it can't
    be written."""

    report: Report
    file: Path | None


def check(
    name: str,
    root: str | Path | None,
    split: str | None = None,
    workers: int | None = None,
    limits: Limits = STANDARD_LIMITS,
    again: bool = False,
) -> CheckResult:
    """Decode every video of a data set, or of one split of it, and keep the findings in a report.

    The report is written every few seconds and at the end, also of an interrupted or failed run;
    the next run goes on from there. `again` decodes also unchanged videos.

    Raises:
        UsageError: there is no such data set or split, or a limit is impossible.
        ActionrecError: `root` is not that data set, or its report is damaged.
    """
    datasets, videos = _every_video(name, root, split)
    file = report_file(datasets[0])
    folder = file.parent
    old = Report.load(file) or Report(name)
    paths = {relative_path(path, folder).as_posix(): path for path in videos}
    # Taken before decoding, so that a file that changes meanwhile counts as changed.
    # By threads: a server takes a while to answer for each.
    with ThreadPoolExecutor(THREADS) as threads:
        states = dict(zip(paths, threads.map(FileState.of, paths.values()), strict=True))
    known = {
        key: found
        for key, found in old.findings.items()
        if not again and not found.given_up and found.file == states.get(key)
    }
    if known:
        logger.info(
            f"{len(known)} of {len(paths)} videos have not changed since {file}; --again decodes "
            "them too."
        )
    # The findings on other videos hold until these change.
    others = {
        key: found
        for key, found in old.findings.items()
        if key not in paths and found.file == FileState.of(beside(folder, key)) != FileState()
    }
    report = Report(name, others | known)
    writable = True

    def save() -> None:
        nonlocal writable
        try:
            if writable:
                report.save(file)
        except ActionrecError as error:
            writable = False
            logger.warning("%s The report is only printed; the next run begins anew.", error)

    save()
    todo = {path: key for key, path in paths.items() if key not in known}
    results = run_each_with_progress(count_frames, list(todo), "checking", save, workers, limits)
    with closing(results):
        for path, result in results:
            error = str(result) if isinstance(result, ActionrecError) else None
            frames, damage = result if error is None else (None, "")
            state, given_up = states[todo[path]], isinstance(result, WorkerError)
            report.findings[todo[path]] = Finding(state, frames, error, given_up, damage)
    segments = _check_segments(datasets, folder, report)
    report.findings |= segments
    if segments:
        save()
    findings = {key: found for key, found in report.findings.items() if key in paths} | segments
    return CheckResult(Report(name, findings), file if writable else None)


def _check_segments(
    datasets: Sequence[VideoDataset], folder: Path, report: Report
) -> dict[str, Finding]:
    """The findings on segments that are not in their videos, of those videos that can be read."""
    videos = (video for dataset in datasets for video in dataset.train + dataset.val)
    findings = {}
    for source in sorted({video.source for video in videos if video.segment}, key=str):
        key = relative_path(source.path, folder).as_posix()
        video = report.findings.get(key)
        if video is None or video.reason is not None:
            continue
        try:
            frames_of(VideoReader(source.path), source)
        except VideoError as error:
            bad = Finding(video.file, None, str(error))
            findings[str(replace(source, path=video_path(key)))] = bad
    return findings


def count_frames(path: VideoPath) -> tuple[int, str]:
    """Decode a whole video; returns its number of frames, and what is damaged in it, "" if nothing.

    Raises:
        VideoError: it can't be read, or has fewer frames than it announces.
    """
    video = VideoReader(path)
    damage = video.verify()
    return len(video), damage


def every_video(
    name: str, root: str | Path | None, split: str | None = None
) -> tuple[VideoDataset, list[VideoPath]]:
    """The data set and the paths of its videos: of one split, or without one of all together,
    with those that no split trains or validates on.
    """
    datasets, paths = _every_video(name, root, split)
    return datasets[0], paths


def _every_video(
    name: str, root: str | Path | None, split: str | None
) -> tuple[list[VideoDataset], list[Path]]:
    splits = dataset_kind(name).splits_for_all if split is None else [split]
    datasets = [open_dataset(name, root, each, to_train=False) for each in splits]
    paths = [video.path for dataset in datasets for video in dataset.train + dataset.val]
    if split is None:
        paths += [path for dataset in datasets for path in dataset.others]
    return datasets, list(dict.fromkeys(paths))


def report_file(dataset: VideoDataset) -> Path:
    """The path of a data set's report: in its folder, or beside the file that lists its videos; in
    the cache if that stands at an address."""
    root = dataset.root
    if isinstance(root, Address):
        return cache_folder() / "checks" / f"{key_of(root.url)}.check.json"
    return (
        root / REPORT if root.is_dir() else root.with_name(short_enough(f"{root.stem}.check.json"))
    )


def without_damaged_videos(
    dataset: VideoDataset, sides: Collection[str] = ("train", "val")
) -> tuple[VideoDataset, list[Failure]]:
    """The data set without the videos that its report calls bad, and these with the reasons.

    A video that has changed since it was checked is kept. Without a report the data set is
    returned as it is. Of `sides`, "train" and "val", the other one is not looked at.

    Raises:
        ActionrecError: the report is damaged, or no good video is left to train on in a class or
            to validate on.
    """
    file = report_file(dataset)
    report = Report.load(file)
    if report is None:
        return dataset, []
    bad = report.bad
    failures = []

    def is_good(video: LabelledVideo) -> bool:
        path = relative_path(video.path, file.parent)
        found = bad.get(path.as_posix())
        if found is None and video.segment:
            found = bad.get(str(VideoSegment(path, *video.segment)))
        if found is None or found.file != FileState.of(video.path):
            return True
        failures.append(Failure(str(video.source), found.reason))
        return False

    good = {side: tuple(filter(is_good, getattr(dataset, side))) for side in sides}
    left = replace(dataset, **good)
    before, after = (
        {label for video in each.train for label in video.all_labels} for each in (dataset, left)
    )
    if lost := sorted(before - after):
        raise ActionrecError(
            f"All training videos of {dataset.labels[lost[0]]} are bad by {file}; replace them or "
            "remove the class."
        )
    if not left.val:
        raise ActionrecError(f"All validation videos are bad by {file}; replace some of them.")
    if failures:
        videos = sum(len(getattr(dataset, side)) for side in sides)
        logger.warning(
            f"{len(failures)} of {videos} videos are left out, because they are bad by {file}."
        )
    return left, failures


def relative_path(path: VideoPath, folder: Path) -> VideoPath:
    """The path relative to `folder`, or absolute where it lies elsewhere; an address as it is."""
    if isinstance(path, Address):
        if path.scheme == FRAMES:
            frames, rate = frame_folder_of(path)
            return frames_address(relative_path(frames, folder), rate)
        return path
    path, folder = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    return path.relative_to(folder) if path.is_relative_to(folder) else path
