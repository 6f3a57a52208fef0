"""The commands and the Python of docs/ run; the flags and links of all pages exist.

Small videos and a small network replace the reader's.
"""

import re
import shlex
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import actionrec
from actionrec.cli import main as cli
from actionrec.models.classifier import BlockConfig, VideoClassifier

PROJECT = Path(__file__).parents[1]
PAGES = sorted((PROJECT / "docs").glob("*.md"))
EVERY_PAGE = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *PAGES]
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
DEFAULT_MODEL = "kinetics400-i3d"
SMALL_MODEL = "model.safetensors"
SMALL_TRAINING = shlex.split(
    "--backbone c3d_small --weights none --clip_length 4 --short_side 36 --crop 32 --epochs 1 "
    "--batch_size 2 --workers 0 --devices 1 --nodes 1"
)


def named(page):
    return str(page.relative_to(PROJECT))


def blocks(page, *languages):
    """The fenced blocks of a page in one of the languages."""
    found = FENCED.findall(page.read_text(encoding="utf-8"))
    return [(language, text) for language, text in found if language in languages]


def commands(text):
    """The words of each command in a block of shell."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.fixture
def readers_folder(tmp_path, encode, class_folders, small_recognizer, monkeypatch):
    """A working folder with the videos and models that the pages mention."""
    for name in ("video.mp4", "match.mp4", "holiday/a.mp4", "more/b.avi"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        encode(tmp_path / name, "mpeg4", frames=30)
    (tmp_path / "videos.txt").write_text("video.mp4\nholiday/a.mp4\n")
    shutil.copytree(class_folders, tmp_path / "my_videos")
    videos = sorted((tmp_path / "my_videos").rglob("*.avi"))
    rows = [f"{path},{path.parent.name},{path.stem}" for path in videos]
    (tmp_path / "my_videos.csv").write_text("\n".join(["path,label,group", *rows]))
    rows = [f"{path},first|{path.parent.name},{path.parts[-3]}" for path in videos]
    rows = [row.replace("first|first", "first") for row in rows]
    (tmp_path / "several.csv").write_text("\n".join(["path,label,split", *rows]))
    (tmp_path / "others").mkdir()
    for number in range(5):
        encode(tmp_path / "others" / f"{number}.mp4", "mpeg4", frames=24, size=(48, 64))
    (tmp_path / "footage").mkdir()
    for number in range(1, 6):
        encode(tmp_path / "footage" / f"yard{number}.mp4", "libx264", frames=80)
    annotations = PROJECT / "tests" / "data" / "annotations" / "via.json"
    shutil.copy(annotations, tmp_path / "project.json")
    for label in ("Archery", "Biking"):
        for group in ("01", "08", "11", "12"):
            path = tmp_path / "data" / "UCF-101" / label / f"v_{label}_g{group}_c01.avi"
            path.parent.mkdir(parents=True, exist_ok=True)
            encode(path, frames=20)
    for folder in ("scripts", "examples"):
        (tmp_path / folder).symlink_to(PROJECT / folder)
    for name, block in (
        (SMALL_MODEL, "none"),
        ("snl.safetensors", "snl"),
        ("nl.safetensors", "nl"),
    ):
        config = replace(small_recognizer.config, block=BlockConfig(block))
        VideoClassifier(config, {"note": "untrained"}).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)


def run(words):
    """Run the command on a small scale; its output goes to the file of the page, if any."""
    target = "output.txt"
    if ">" in words:
        words, target = words[: words.index(">")], words[-1]
    if words[0] == "python":
        subprocess.run([sys.executable, *words[1:]], check=True, stdout=subprocess.DEVNULL)
        return 0
    assert words[0] == "actionrec", f"a block of bash calls {words[0]}; mark it as sh"
    arguments = [SMALL_MODEL if word == DEFAULT_MODEL else word for word in words[1:]]
    if arguments[0] in ("train", "tune"):
        if "--output" not in arguments and "--dataset" in arguments:
            dataset = arguments[arguments.index("--dataset") + 1]
            # As with the default backbone and recipe.
            block = "none" if dataset in ("folder", "csv") else "snl"
            name = "head" if "head" in arguments else block
            arguments += ["--output", f"runs/{dataset}-i3d-{name}"]
        arguments += SMALL_TRAINING
    elif (
        arguments[0] in ("predict", "features", "timeline", "explain", "export")
        and "--model" not in arguments
    ):
        arguments += ["--model", SMALL_MODEL]
    with open(target, "w") as output, redirect_stdout(output):
        return cli.main(arguments)


PAGES_WITH_COMMANDS = [page for page in PAGES if blocks(page, "bash")]
# Their Python goes on with what their commands write.
PYTHON_READS_RESULTS = {"features.md"}
PAGES_WITH_PYTHON = [page for page in EVERY_PAGE if blocks(page, "python")]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES_WITH_COMMANDS, ids=named)
def test_the_commands_of_a_page_work_one_after_the_other(page, readers_folder, capfd):
    for _, text in blocks(page, "bash"):
        for words in commands(text):
            status = run(words)
            assert status == 0, f"{shlex.join(words)}: {capfd.readouterr().err}"


@pytest.mark.parametrize("page", PAGES_WITH_PYTHON, ids=named)
def test_the_python_of_a_page_runs(page, readers_folder, monkeypatch):
    load = actionrec.load
    small = {DEFAULT_MODEL: SMALL_MODEL}
    monkeypatch.setattr(actionrec, "load", lambda name, **options: load(small[name], **options))
    torch.manual_seed(0)
    for _, text in blocks(page, "bash") if page.name in PYTHON_READS_RESULTS else ():
        for words in commands(text):
            run(words)
    for _, text in blocks(page, "python"):
        exec(compile(text, str(page), "exec"), {})


@pytest.mark.parametrize("page", EVERY_PAGE, ids=named)
def test_the_flags_of_a_page_exist(page, monkeypatch):
    monkeypatch.chdir(PROJECT)
    parser = cli.build_parser()
    for _, text in blocks(page, "bash", "sh"):
        for words in commands(text):
            if "actionrec" in words:
                words = words[words.index("actionrec") + 1 :]
            elif "actionrec.cli.main" in words:
                words = words[words.index("actionrec.cli.main") + 1 :]
            else:
                continue
            for mark in (">", "&&", "|"):
                words = words[: words.index(mark)] if mark in words else words
            for flag in set(cli.OF_EVERY_VERB) & set(words):
                del words[words.index(flag) : words.index(flag) + 2]
            parser.parse_args(words)


@pytest.mark.parametrize("page", EVERY_PAGE, ids=named)
def test_the_links_of_a_page_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", EVERY_PAGE, ids=named)
def test_the_files_of_the_project_that_a_page_names_exist(page):
    folders = "actionrec|configs|docs|examples|results|scripts|tests"
    files = re.findall(rf"`((?:{folders})/[\w./-]*)`", page.read_text(encoding="utf-8"))
    missing = [file for file in files if not (PROJECT / file).exists()]
    assert not missing


@pytest.mark.slow
def test_the_picture_of_the_readme_can_be_made_again(tmp_path, encode, model):
    for name in ("MoveRight_g03_c01", "Expand_g04_c01", "TurnClockwise_g05_c02", "MoveUp_g01_c02"):
        path = tmp_path / name.partition("_")[0] / f"v_{name}.avi"
        path.parent.mkdir()
        encode(path, size=(320, 240))
    picture = tmp_path / "picture.png"
    script = PROJECT / "scripts" / "make_readme_picture.py"
    run = [sys.executable, str(script), str(tmp_path), model, "--output", str(picture)]
    subprocess.run(run, check=True)
    assert Image.open(picture).width == 1200
