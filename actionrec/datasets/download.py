"""Data sets from their official sites: downloaded, unpacked and counted.

    actionrec data download ucf101 --root data

An interrupted download goes on when the command is given again; what has been unpacked takes its
place only when all of it is there. Nothing that is already there is replaced.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from actionrec import downloads
from actionrec.datasets.ucf101 import LABEL_OF, LABELS, OFFICIAL_COUNT, VIDEO_NAME
from actionrec.errors import ActionrecError, UsageError

# rich, rarfile and filelock are imported where they are used, so that the command line starts at
# once.
if TYPE_CHECKING:
    from rich.progress import Progress


@dataclass(frozen=True)
class VideoCount:
    """What a folder holds of a data set."""

    folder: Path
    videos: int
    classes: int


@dataclass(frozen=True)
class Source:
    """Where a data set is published, and what makes it complete."""

    url: str  # of a RAR archive
    size: int  # bytes of the archive
    unpacked: int  # bytes that its contents take, about
    folder: str  # what the archive holds: this folder, with one folder a class
    labels: tuple[str, ...]
    videos: int
    groups: int  # of each class, numbered from 1; so are the clips of each group

    @property
    def file(self) -> str:
        return PurePosixPath(urlsplit(self.url).path).name


SOURCES = {
    # No checksum of this archive is published; the size is the one that the server states. What
    # is unpacked is compared with the checksums inside the archive, by number and by name: the
    # official lists have 25 groups in each class and number groups and clips without gaps.
    "ucf101": Source(
        url="https://www.crcv.ucf.edu/data/UCF101/UCF101.rar",
        size=6_932_971_618,
        unpacked=7_300_000_000,
        folder="UCF-101",
        labels=LABELS,
        videos=OFFICIAL_COUNT,
        groups=25,
    ),
}


def download(name: str, root: Path) -> VideoCount:
    """Bring the data set `name` below `root`, where `open_dataset` finds it, and count it.

    For ucf101: 6.9 GB to download, 7.2 GB when unpacked to root/UCF-101, and one of the programs
    of `UNPACKERS`. A complete data set in `root` is left as it is, a complete archive (UCF101.rar)
    is used, and a partial download of this function (UCF101.rar.part) continued. The archive is
    deleted when the data set is complete. What is being done goes to stderr.

    Raises:
        UsageError: there is no such data set to download.
        ActionrecError: it can't be downloaded, unpacked or written, or isn't complete; the
            message says what is kept.
    """
    if name not in SOURCES:
        raise UsageError(
            f"There is no data set {name!r} to download; choose one of {', '.join(SOURCES)}."
        )
    source = SOURCES[name]
    root = Path(root)
    if found := _already_there(name, source, root):
        print(f"{found.folder} is complete, nothing is downloaded.", file=sys.stderr)
        return found

    programs = _find_unpackers(source.file)
    archive = root / source.file
    target = root / source.folder
    with _writing(root), _alone(root, source.file):
        if archive.exists():
            _check_archive(archive, source)
            _check_space(name, root, source.unpacked)
        else:
            missing = source.size - downloads.size_of(downloads.part_of(archive))
            _check_space(name, root, missing + source.unpacked)
            downloads.download(source.url, archive, source.size)
        temporary = root / f".{source.folder}.unpacking"
        try:
            _unpack(archive, temporary, programs, source)
            (temporary / source.folder).rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        archive.unlink()
    print(f"{target} is complete, {archive} was deleted.", file=sys.stderr)
    return VideoCount(target, source.videos, len(source.labels))


# Before


def _already_there(name: str, source: Source, root: Path) -> VideoCount | None:
    """The complete data set in `root`, None where there is none of it.

    Raises:
        ActionrecError: a part of it is there, which is not to be replaced.
    """
    target = root / source.folder
    for folder in (target, root):
        if (problem := _problem(_videos_in(folder), source)) is None:
            return VideoCount(folder, source.videos, len(source.labels))
        if folder == target and folder.exists():
            raise ActionrecError(
                f"{folder} is there but {problem}; move it away or delete it to download {name} "
                "anew."
            )
    return None


@contextmanager
def _writing(root: Path) -> Iterator[None]:
    """Make the folder, and turn what the disk refuses into a sentence."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise ActionrecError(
            f"{error.filename or root} could not be written ({error.strerror or error}); free "
            "some space, see to the permissions or choose another folder with --root."
        ) from error


@contextmanager
def _alone(root: Path, file: str) -> Iterator[None]:
    """Keep a second download out of the folder: both would write the same files."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(root / f".{file}.lock", timeout=0):
            yield
    except Timeout as error:
        raise ActionrecError(
            f"Another actionrec is downloading {file} to {root}; wait until it is done."
        ) from error


def _check_archive(archive: Path, source: Source) -> None:
    if (size := downloads.size_of(archive)) != source.size:
        raise ActionrecError(
            f"{archive} has {size:,} bytes instead of the {source.size:,} that were published; "
            "move it away or delete it to download it anew."
        )


def _check_space(name: str, root: Path, needed: int) -> None:
    free = shutil.disk_usage(root).free
    if free < needed:
        raise ActionrecError(
            f"{root} has {free / 1e9:.1f} GB of free space, but {name} needs another "
            f"{needed / 1e9:.1f} GB; free some, or choose a folder on another disk with --root."
        )


# Unpacking


# Program and arguments. Which archives one can read differs by its version and how it was built
# (libarchive, so bsdtar, reads no solid archives of RAR 4; Debian's 7-Zip no RAR at all), so all
# are tried.
UNPACKERS = {
    "bsdtar": "-xf {archive} -C {folder} --no-same-owner",
    "unar": "-force-overwrite -no-directory -no-recursion -output-directory {folder} {archive}",
    "unrar": "x -o+ -p- {archive} {folder}/",
    "7z": "x -y -o{folder} {archive}",
    "7zz": "x -y -o{folder} {archive}",
}


class _Failed(Exception):
    """One program could not unpack the archive; another may."""


def _find_unpackers(file: str) -> list[str]:
    """Those of `UNPACKERS` that are on the PATH."""
    found = [program for program in UNPACKERS if shutil.which(program)]
    if not found:
        raise ActionrecError(
            f"No program that unpacks {file} was found (one of {', '.join(UNPACKERS)}); install "
            "unar, with `apt install unar` or `brew install unar`, or another of them."
        )
    return found


def _unpack(archive: Path, folder: Path, programs: list[str], source: Source) -> None:
    """Unpack the archive to `folder` with the first program that brings out what is in it.

    Raises:
        ActionrecError: none does, or it isn't the archive of the data set.
    """
    contents = _contents(archive, source)
    problems = []
    for program in programs:
        # What a killed process has left there, or the program before.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        print(f"Unpacking {archive} with {program}", file=sys.stderr)
        try:
            _run(program, archive, folder, len(contents))
            _compare(folder, contents)
            return
        except _Failed as error:
            problems.append(f"{program}: {error}")
    raise ActionrecError(
        f"{archive} could not be unpacked ({'; '.join(problems)}); it was kept: install unar or "
        "unrar and run this again, or, if the archive is damaged, delete it to download it anew."
    )


def _contents(archive: Path, source: Source) -> dict[str, tuple[int, int]]:
    """Bytes and CRC-32 of each file in the archive.

    Raises:
        ActionrecError: it is damaged, doesn't hold the data set, or holds what could be written
            outside of it.
    """
    import rarfile

    advice = "delete it to download it anew"
    try:
        with rarfile.RarFile(archive, errors="strict") as opened:
            entries = [entry for entry in opened.infolist() if not entry.is_dir()]
    except rarfile.Error as error:
        raise ActionrecError(f"{archive} is damaged ({error}); {advice}.") from error
    for entry in entries:
        name = entry.filename
        outside = name.startswith("/") or ":" in name or ".." in name.split("/")
        if outside or not entry.is_file():
            raise ActionrecError(
                f"{archive} was not unpacked, because {name!r} in it is a link or would be "
                f"written elsewhere, which is not so in the published archive; {advice}."
            )
    below = [PurePosixPath(entry.filename) for entry in entries]
    videos = _videos(path for path in below if path.parts[:1] == (source.folder,))
    if problem := _problem(videos, source):
        raise ActionrecError(f"{source.folder} in {archive} {problem}; {advice}.")
    return {entry.filename: (entry.file_size, entry.CRC) for entry in entries}


def _run(program: str, archive: Path, folder: Path, files: int) -> None:
    # Whole paths, so that none begins with a hyphen.
    arguments = [
        word.format(archive=archive.absolute(), folder=folder.absolute())
        for word in UNPACKERS[program].split()
    ]
    with tempfile.TemporaryFile("w+", errors="replace") as errors, _bar() as bar:
        try:
            process = subprocess.Popen(
                [program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
        except OSError as error:
            raise _Failed(f"it could not be run ({error.strerror})") from error
        task = bar.add_task("unpacking", total=files)
        try:
            while process.poll() is None:
                there = sum(len(names) for _, _, names in os.walk(folder))
                bar.update(task, completed=there)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=0.5)
        finally:
            process.kill()
            process.wait()
        bar.update(task, completed=files)
        if process.returncode:
            errors.seek(0)
            said = (line.removeprefix(f"{program}: ").strip(" .\n") for line in errors)
            raise _Failed(next(filter(None, said), "it failed silently"))


def _compare(folder: Path, contents: dict[str, tuple[int, int]]) -> None:
    """Raise _Failed unless the files are those of the archive; not every program looks (bsdtar)."""
    with _bar() as bar:
        for name in bar.track(contents, description="checking"):
            path = folder / name
            size, expected = contents[name]
            if downloads.size_of(path) != size or _checksum(path) != expected:
                raise _Failed(f"{name} came out damaged")


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            checksum = zlib.crc32(piece, checksum)
    return checksum


def _bar() -> "Progress":
    from rich.console import Console
    from rich.progress import Progress

    return Progress(console=Console(stderr=True), disable=not sys.stderr.isatty())


# Counting


def _videos_in(folder: Path) -> set[tuple[str, int, int]]:
    """The videos in `folder` and its class folders."""
    return _videos([*folder.glob("*.avi"), *folder.glob("*/*.avi")])


def _videos(paths: Iterable[PurePath]) -> set[tuple[str, int, int]]:
    """Class, in small letters, group and clip of the paths that are named as videos."""
    videos = set()
    for path in paths:
        if match := VIDEO_NAME.fullmatch(path.name):
            # The folder HandstandPushups holds files called v_HandStandPushups_*.
            word, above = match[1].casefold(), path.parent.name.casefold()
            if above == word or above not in LABEL_OF:
                videos.add((word, int(match[2]), int(path.stem[-2:])))
    return videos


def _problem(videos: set[tuple[str, int, int]], source: Source) -> str | None:
    """What makes the data set incomplete, as the end of a sentence, or None."""
    classes = {word for word, _, _ in videos}
    if len(videos) == source.videos and classes == {label.casefold() for label in source.labels}:
        return None
    missing = list(_missing(videos, source))
    more = ", ..." if len(missing) > 3 else ""
    names = f" (missing: {', '.join(missing[:3])}{more})" if missing else ""
    return (
        f"has {len(videos)} videos of {len(classes)} classes instead of {source.videos} of "
        f"{len(source.labels)}{names}"
    )


def _missing(videos: set[tuple[str, int, int]], source: Source) -> Iterator[str]:
    """Names of videos that must exist but aren't there."""
    clips: dict[tuple[str, int], set[int]] = {}
    for word, group, clip in videos:
        clips.setdefault((word, group), set()).add(clip)
    for label in source.labels:
        word = label.casefold()
        groups = [group for group in range(1, source.groups + 1) if (word, group) not in clips]
        if len(groups) == source.groups:
            yield f"all of {label}"
            continue
        for group in groups:
            yield f"v_{label}_g{group:02d}_c01.avi"
        for (its_word, group), present in sorted(clips.items()):
            if its_word == word:
                for clip in sorted(set(range(1, max(present))) - present):
                    yield f"v_{label}_g{group:02d}_c{clip:02d}.avi"
