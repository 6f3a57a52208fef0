"""Find the broken videos of a data set before training meets them.

    actionrec data check ucf101 --root UCF-101

Every frame of every video is decoded. What was found is kept in a report: actionrec_check.json in
the data set's folder, for a CSV file NAME.check.json beside it. It is JSON:

    {"version": 1, "dataset": "ucf101", "checked": 13320,
     "bad": {"Archery/v_Archery_g01_c01.avi":
             {"reason": "... was cut off ...", "size": 1234, "mtime_ns": 5678, "given_up": false}},
     "good": {"Archery/v_Archery_g01_c02.avi": [290110, 5678, 164]}}

Paths are relative to the report's folder, or absolute where the video lies elsewhere. Good videos
have their size in bytes, time of change in ns, and number of frames. `size` and `mtime_ns` are null
where there is no file; `given_up` says that the process which read the file was killed or died.

A video whose size and time of change are those of the report is not decoded again, unless it was
given up: that depends on the machine and on the limits too. Training and evaluation leave out the
videos that the report calls bad.
"""

import csv
import json
import logging
import os
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from actionrec.datasets.dataset import LabelledVideo, VideoDataset
from actionrec.datasets.registry import open_dataset
from actionrec.errors import ActionrecError
from actionrec.files import replacing
from actionrec.processes import STANDARD_LIMITS, Limits, WorkerError, run_each
from actionrec.video.reader import VideoReader

if TYPE_CHECKING:
    from actionrec.errors import Failure

logger = logging.getLogger("actionrec")

VERSION = 1
REPORT = "actionrec_check.json"
SAVED_EVERY = 10.0  # seconds
# Splits that together hold all videos, for data sets whose split "1" does not.
ALL_SPLITS = {"hmdb51": ("1", "2", "3")}


@dataclass(frozen=True)
class Stamp:
    """What changes when a file does: its size in bytes and its time of change in ns, both None
    where there is no file."""

    size: int | None
    mtime_ns: int | None

    @classmethod
    def of(cls, path: Path) -> "Stamp":
        try:
            found = path.stat()
        except OSError:
            return cls(None, None)
        return cls(found.st_size, found.st_mtime_ns)


@dataclass(frozen=True)
class Judgement:
    """A video as it was found: its number of frames, or the reason why it is bad, as a sentence.

    `given_up`: the process that read it was killed or died.
    """

    stamp: Stamp
    frames: int | None = None
    reason: str | None = None
    given_up: bool = False

    def holds_for(self, path: Path) -> bool:
        """Whether it still tells what decoding the file would: it has not changed, and nothing
        but the file decided."""
        return not self.given_up and self.stamp == Stamp.of(path)


@dataclass
class Report:
    """The judged videos of a data set, by their path as it stands in the report."""

    dataset: str
    judged: dict[str, Judgement] = field(default_factory=dict)

    @property
    def bad(self) -> dict[str, Judgement]:
        return {key: found for key, found in self.judged.items() if found.reason is not None}

    def to_json(self) -> dict[str, object]:
        """The report in the form that the module's docstring describes."""
        bad, good = {}, {}
        for key, found in sorted(self.judged.items()):
            if found.reason is None:
                good[key] = [found.stamp.size, found.stamp.mtime_ns, found.frames]
            else:
                stamp = {"size": found.stamp.size, "mtime_ns": found.stamp.mtime_ns}
                bad[key] = {"reason": found.reason, **stamp, "given_up": found.given_up}
        return {
            "version": VERSION,
            "dataset": self.dataset,
            "checked": len(self.judged),
            "bad": bad,
            "good": good,
        }

    def save(self, path: Path) -> None:
        """Write the report, whole or not at all.

        Raises:
            ActionrecError: the folder can't be written.
        """
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(self.to_json()), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Report | None":
        """The report at `path`, None if there is none.

        Raises:
            ActionrecError: it is damaged or of another version.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values["version"] != VERSION:
                raise ValueError(f"version {values['version']}, not {VERSION}")
            judged = {
                key: Judgement(Stamp(size, mtime_ns), frames=frames)
                for key, (size, mtime_ns, frames) in values["good"].items()
            }
            for key, bad in values["bad"].items():
                stamp = Stamp(bad["size"], bad["mtime_ns"])
                judged[key] = Judgement(stamp, None, str(bad["reason"]), bool(bad["given_up"]))
            return cls(str(values["dataset"]), judged)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ActionrecError(
                f"{path} can't be read as a report of `actionrec data check` "
                f"({type(error).__name__}: {error}); delete it and check again."
            ) from error


@dataclass(frozen=True)
class Checked:
    """The result of a check: the videos that were asked for, by path, and the report's file, None
    where it can't be written. `report` holds these videos and no others."""

    report: Report
    file: Path | None


def check(
    name: str,
    root: Path | None,
    split: str | None = None,
    workers: int | None = None,
    limits: Limits = STANDARD_LIMITS,
    again: bool = False,
) -> Checked:
    """Decode every video of a data set, or of one split of it, and keep the findings in a report.

    The report is written every few seconds and when the work ends, is interrupted or fails; the
    next run goes on from there. `again` decodes also what was judged before.

    Raises:
        UsageError: there is no such data set or split, or a limit is impossible.
        ActionrecError: what lies at `root` is not that data set, or its report is damaged.
    """
    dataset, videos = every_video(name, root, split)
    file = report_file(dataset, root)
    folder = file.parent
    old = Report.load(file) or Report(name)
    keys = {_key(path, folder): path for path in videos}
    known = {
        key: old.judged[key]
        for key, path in keys.items()
        if not again and key in old.judged and old.judged[key].holds_for(path)
    }
    if known:
        logger.info(
            "%d of %d videos have not changed since %s; --again decodes them too.",
            len(known),
            len(keys),
            file,
        )
    # What the report says of other videos stays true until they change.
    others = {
        key: found
        for key, found in old.judged.items()
        if key not in keys and found.stamp == Stamp.of(folder / key) != Stamp(None, None)
    }
    report = Report(name, others | known)
    writable = _try_to_save(report, file)
    saved = time.monotonic()
    try:
        todo = [path for key, path in keys.items() if key not in known]
        for path, found in judge(todo, workers, limits):
            report.judged[_key(path, folder)] = found
            if writable and time.monotonic() > saved + SAVED_EVERY:
                writable = _try_to_save(report, file)
                saved = time.monotonic()
    finally:
        writable = writable and _try_to_save(report, file)
    judged = {key: found for key, found in report.judged.items() if key in keys}
    return Checked(Report(name, judged), file if writable else None)


def judge(
    paths: Sequence[Path], workers: int | None, limits: Limits
) -> Iterable[tuple[Path, Judgement]]:
    """Decode files in processes of their own; yield each with the finding, as they are done."""
    if not paths:
        return
    from rich.console import Console
    from rich.progress import track

    # Taken before decoding, so that a file that changes meanwhile counts as changed.
    stamps = {path: Stamp.of(path) for path in paths}
    with closing(run_each(count_frames, paths, workers, limits)) as results:
        console = Console(stderr=True)
        for path, result in track(results, "checking", total=len(paths), console=console):
            if isinstance(result, ActionrecError):
                given_up = isinstance(result, WorkerError)
                yield path, Judgement(stamps[path], None, str(result), given_up)
            else:
                yield path, Judgement(stamps[path], result)


def count_frames(path: Path) -> int:
    """Decode a whole video and return how many frames it has.

    Raises:
        VideoError: it can't be read, or has fewer frames than it announces.
    """
    video = VideoReader(path)
    video.verify()
    return len(video)


def every_video(
    name: str, root: Path | None, split: str | None = None
) -> tuple[VideoDataset, list[Path]]:
    """The data set and the paths of its videos: of one split, or without one of all together.

    Of a CSV file these are all that it lists, also those that no split trains or validates on.

    Raises:
        UsageError, ActionrecError: as `open_dataset`.
    """
    splits = (split,) if split is not None else ALL_SPLITS.get(name, ("1",))
    datasets = [open_dataset(name, root, each) for each in splits]
    paths = [video.path for dataset in datasets for video in dataset.train + dataset.val]
    if name == "csv" and split is None:
        paths += [root.parent / row["path"] for row in rows_of_csv(root)]
    return datasets[0], list(dict.fromkeys(paths))


def rows_of_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file that `open_csv` has accepted, by column, stripped of spaces."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, restval="", skipinitialspace=True)
        return [{name.strip(): word.strip() for name, word in row.items()} for row in reader]


def report_file(dataset: VideoDataset, root: Path | None) -> Path:
    """Where the report of the data set at `root` lies."""
    if dataset.name == "csv":
        return root.with_name(f"{root.stem}.check.json")
    # The demo without a root is in the cache, root/Class/video.avi.
    folder = dataset.train[0].path.parents[1] if root is None else root
    return folder / REPORT


def without_damaged_videos(
    dataset: VideoDataset, root: Path | None, sides: Collection[str] = ("train", "val")
) -> tuple[VideoDataset, list["Failure"]]:
    """The data set without the videos that its report calls bad, and these with the reasons.

    Only those are left out that have not changed since they were checked. Without a report the
    data set is returned as it is. Of `sides`, "train" and "val", the other one is not looked at.

    Raises:
        ActionrecError: the report is damaged, or nothing is left of a class to train on or of all
            videos to validate on.
    """
    from actionrec.errors import Failure

    file = report_file(dataset, Path(root) if root is not None else None)
    report = Report.load(file)
    if report is None:
        return dataset, []
    bad = report.bad
    failures = []

    def good(videos: tuple[LabelledVideo, ...]) -> tuple[LabelledVideo, ...]:
        kept = []
        for video in videos:
            found = bad.get(_key(video.path, file.parent))
            if found is not None and found.stamp == Stamp.of(video.path):
                failures.append(Failure(str(video.path), found.reason))
            else:
                kept.append(video)
        return tuple(kept)

    left = replace(dataset, **{side: good(getattr(dataset, side)) for side in sides})
    before, after = ({video.label for video in each.train} for each in (dataset, left))
    if lost := sorted(before - after):
        raise ActionrecError(
            f"All training videos of {dataset.labels[lost[0]]} are bad by {file}; replace them or "
            "remove the class."
        )
    if not left.val:
        raise ActionrecError(f"All validation videos are bad by {file}; replace some of them.")
    if failures:
        logger.warning(
            "%d of %d videos are left out, because they are bad by %s.",
            len(failures),
            sum(len(getattr(dataset, side)) for side in sides),
            file,
        )
    return left, failures


def _key(path: Path, folder: Path) -> str:
    """The name of a video in the report that lies in `folder`."""
    path, folder = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()


def _try_to_save(report: Report, file: Path) -> bool:
    """Write the report; where that can't be, say so and return False."""
    try:
        report.save(file)
    except ActionrecError as error:
        logger.warning("%s The report is only printed, and a next run will begin anew.", error)
        return False
    return True
