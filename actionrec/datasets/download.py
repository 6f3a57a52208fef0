"""UCF-101 from its official site: download, unpack, count.

    actionrec data download ucf101 --root data

The same command continues an interrupted download. The data set appears only when it is complete,
and never replaces files that are already there.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from requests import RequestException
from rich.console import Console

from actionrec.datasets.ucf101 import LABEL_OF, LABELS, OFFICIAL_COUNT, VIDEO_NAME
from actionrec.downloads import Session, download_file, part_of, reason, size_of
from actionrec.errors import ActionrecError
from actionrec.files import exclusive

URL = "https://www.crcv.ucf.edu/data/UCF101/UCF101.rar"
ARCHIVE = "UCF101.rar"
SIZE = 6_932_971_618  # bytes of the archive, exact; no checksum is published
UNPACKED_SIZE = 7_300_000_000  # bytes of its contents, about
FOLDER = "UCF-101"  # in the archive, with one folder a class
VIDEOS, CLASSES = OFFICIAL_COUNT, len(LABELS)

# Programs and their arguments. Each compares the checksums in the archive (bsdtar doesn't). Not
# every build reads every RAR (Debian's 7-Zip reads none), so all are tried.
UNPACKERS = {
    "unar": "-force-overwrite -no-directory -no-recursion -output-directory {folder} {archive}",
    "unrar": "x -o+ -p- {archive} {folder}/",
    "7z": "x -y -o{folder} {archive}",
    "7zz": "x -y -o{folder} {archive}",
}


def download(root: Path) -> Path:
    """Download UCF-101, unpack it below `root` and count its videos; returns its folder.

    It takes 6.9 GB to download, 7.2 GB when unpacked to root/UCF-101, and one of the programs of
    `UNPACKERS`. A complete data set in `root` is left as it is, a complete archive (UCF101.rar) is
    used, and a partial one (UCF101.rar.part) continued. The archive is deleted in the end. Progress
    goes to stderr.

    Raises:
        ActionrecError: it can't be downloaded, unpacked or written, or isn't complete; the
            message says which files are kept.
    """
    target = root / FOLDER
    for folder in (target, root):
        if (problem := _incompleteness(folder)) is None:
            print(f"{folder} is complete, nothing is downloaded.", file=sys.stderr)
            return folder
        if folder == target and folder.exists():
            raise ActionrecError(
                f"{folder} is there but {problem}; move it away or delete it to download ucf101 "
                "anew."
            )
    programs = [program for program in UNPACKERS if shutil.which(program)]
    if not programs:
        raise ActionrecError(
            f"No program that unpacks {ARCHIVE} was found (one of {', '.join(UNPACKERS)}); "
            "install unar, with `apt install unar` or `brew install unar`, or another of them."
        )
    archive = root / ARCHIVE
    busy = f"Another actionrec is downloading {ARCHIVE} to {root}; wait until it is done."
    try:
        with exclusive(archive, busy):
            _provide_archive(archive)
            _unpack(archive, root / f".{FOLDER}.unpacking", programs)
            archive.unlink()
    except OSError as error:
        raise ActionrecError(
            f"{error.filename or root} could not be written ({error.strerror or error}); free "
            "some space, correct the permissions or choose another folder with --root."
        ) from error
    print(f"{target} is complete, {archive} was deleted.", file=sys.stderr)
    return target


def _provide_archive(archive: Path) -> None:
    """Download the archive unless it is there; raise ActionrecError if space is lacking."""
    present = archive.exists()
    needed = UNPACKED_SIZE
    if not present:
        needed += SIZE - size_of(part_of(archive))
    elif size_of(archive) != SIZE:
        raise ActionrecError(
            f"{archive} has {size_of(archive):,} bytes instead of the {SIZE:,} that were "
            "published; move it away or delete it to download it anew."
        )
    if (free := shutil.disk_usage(archive.parent).free) < needed:
        raise ActionrecError(
            f"{archive.parent} has {free / 1e9:.1f} GB of free space, but ucf101 needs another "
            f"{needed / 1e9:.1f} GB; free some, or choose a folder on another disk with --root."
        )
    if present:
        return
    try:
        with Session() as session:
            download_file(URL, archive, SIZE, session)
    except RequestException as error:
        raise ActionrecError(
            f"{URL} could not be downloaded ({reason(error)}): run this again later to "
            f"continue, or put the file there yourself as {archive}."
        ) from error


def _unpack(archive: Path, temporary: Path, programs: list[str]) -> None:
    """Unpack the archive with the first program that does it without error."""
    # Absolute paths, so that none begins with a hyphen.
    paths = {"archive": archive.absolute(), "folder": temporary.absolute()}
    problems = []
    try:
        for program in programs:
            # Left by a killed process or by the program before.
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            print(f"Unpacking {archive} with {program}", file=sys.stderr)
            arguments = [word.format(**paths) for word in UNPACKERS[program].split()]
            problem = _run([program, *arguments])
            if problem is None:
                problem = _incompleteness(temporary / FOLDER)
            if problem is None:
                (temporary / FOLDER).rename(archive.parent / FOLDER)
                return
            problems.append(f"{program}: {problem}")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    raise ActionrecError(
        f"{archive} could not be unpacked ({'; '.join(problems)}); it was kept: install unar or "
        "unrar and run this again, or, if the archive is damaged, delete it to download it anew."
    )


def _run(command: list[str]) -> str | None:
    """Run a program; return its error message if it fails."""
    try:
        with Console(stderr=True).status("unpacking"):
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
            )
    except OSError as error:
        return f"it could not be run ({error.strerror})"
    if done.returncode == 0:
        return None
    # unar reports on stdout, in the last line.
    lines = done.stderr.strip().splitlines()[:1] or done.stdout.strip().splitlines()[-1:]
    return lines[0].removeprefix(f"{command[0]}: ").strip(" .") if lines else "it failed silently"


def _incompleteness(folder: Path) -> str | None:
    """The difference to the complete data set, as the end of a sentence, or None.

    Counts the videos in `folder` and its class folders.
    """
    names = set()
    classes = set()
    for path in [*folder.glob("*.avi"), *folder.glob("*/*.avi")]:
        if match := VIDEO_NAME.fullmatch(path.name):
            # The folder HandstandPushups holds files called v_HandStandPushups_*.
            label, above = match[1].casefold(), path.parent.name.casefold()
            if label in LABEL_OF and (above == label or above not in LABEL_OF):
                names.add(path.name.casefold())
                classes.add(label)
    if (len(names), len(classes)) == (VIDEOS, CLASSES):
        return None
    return f"has {len(names)} videos of {len(classes)} classes instead of {VIDEOS} of {CLASSES}"
