"""Teach, Review and Train of `actionrec app`, by a server on loopback: what is sent is learnt from,
kept through kills, and answered in sentences."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import requests
import torch

from actionrec.models.classifier import VideoClassifier

pytest.importorskip("gradio")

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


class Page:
    """A running page with a project."""

    def __init__(self, process, url, folder):
        self.process, self.url, self.folder = process, url, folder

    def project(self):
        return requests.get(f"{self.url}/project", timeout=30).json()

    def post(self, name, values=None, **options):
        return requests.post(f"{self.url}/project/{name}", json=values, timeout=60, **options)

    def send(self, path, label="", name=None):
        query = {"name": name or path.name, "label": label}
        return requests.put(
            f"{self.url}/project/videos", params=query, data=path.read_bytes(), timeout=60
        )

    def wait(self, condition, seconds=300):
        """The project, as soon as it is as it should be."""
        end = time.monotonic() + seconds
        while not condition(project := self.project()):
            assert time.monotonic() < end, project
            time.sleep(0.2)
        return project


@contextmanager
def served(model, folder):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "actionrec", "app", "--model", model, "--port", str(port)]
        + ["--project", str(folder / "mine"), "--max-megabytes", "1", "--max-seconds", "5"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=(folder / "stderr").open("a"),
        text=True,
        env=os.environ | {"ACTIONREC_CACHE": str(folder / "cache")},
    )
    try:
        url = process.stdout.readline().strip()
        assert url.startswith("http"), (folder / "stderr").read_text()
        yield Page(process, url, folder / "mine")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


@pytest.fixture(scope="module")
def videos(tmp_path_factory, encode):
    folder = tmp_path_factory.mktemp("videos")
    names = ("ann_walk", "bob_walk", "ann_run", "bob_run", "cid_run")
    return [
        encode(folder / f"{name}.avi", frames=30 + 3 * number) for number, name in enumerate(names)
    ]


@pytest.fixture(scope="module")
def steady_model(model, tmp_path_factory):
    """The network of `model` with batch norms that have seen clips, so that training all of it
    does not diverge."""
    torch.manual_seed(0)
    classifier = VideoClassifier.load(model)
    network = classifier.network.train()
    with torch.no_grad():
        for _ in range(50):
            clips = torch.randint(0, 256, (8, 3, 8, 32, 32), dtype=torch.uint8)
            network(classifier.config.preprocessing.normalise(clips))
    path = tmp_path_factory.mktemp("steady") / "model.safetensors"
    classifier.save(path)
    return str(path)


@pytest.fixture(scope="module")
def page(steady_model, tmp_path_factory, videos):
    with served(steady_model, tmp_path_factory.mktemp("page")) as page:
        for path in videos:
            label = path.stem.partition("_")[2]
            assert page.send(path, label).json() == {"path": f"videos/{path.name}", "new": True}
        page.wait(lambda project: project["figure"] and project["figure"]["examples"] == 5)
        yield page


def test_what_is_sent_is_judged_by_group_and_shown(page):
    project = page.project()
    assert [each["name"] for each in project["examples"]] == [
        *("ann_walk.avi", "bob_walk.avi", "ann_run.avi", "bob_run.avi", "cid_run.avi")
    ]
    assert project["figure"]["groups"] == 5 and "2 examples only" in project["words"]
    assert page.post("group", {"by": "name"}).status_code == 200
    project = page.wait(lambda project: project["figure"]["groups"] == 3)
    assert {each["group"] for each in project["examples"]} == {"ann", "bob", "cid"}
    assert all(0 <= each["judgement"]["own"] <= 1 for each in project["examples"])
    figure = project["figure"]
    assert 0 <= figure["low"] <= figure["right"] / figure["examples"] <= figure["high"] <= 1
    project = page.wait(lambda project: all(each["thumbnails"] for each in project["examples"]))
    for what, kind in (("play", "video/mp4"), ("thumbnails", "image/jpeg")):
        answer = requests.get(
            f"{page.url}/project/{what}", params={"path": "videos/ann_run.avi"}, timeout=30
        )
        assert answer.headers["content-type"] == kind and len(answer.content) > 500
    part = requests.get(
        f"{page.url}/project/play",
        params={"path": "videos/ann_run.avi"},
        headers={"Range": "bytes=0-9"},
        timeout=30,
    )
    assert part.status_code == 206 and len(part.content) == 10


def test_the_downloaded_model_gives_predict_the_answer_of_try_it(page, videos, command, tmp_path):
    answer = requests.get(f"{page.url}/project/model.safetensors", timeout=60)
    file = tmp_path / "mine.safetensors"
    file.write_bytes(answer.content)
    tried = requests.post(
        f"{page.url}/project/try",
        params={"name": "x.avi"},
        data=videos[2].read_bytes(),
        timeout=60,
    ).json()
    assert tried["video"] == "x.avi"
    run = command(*("predict", videos[2], "--model", file, "--engine", "torch", "--format", "json"))
    [predicted] = json.loads(run.stdout)
    assert [each["label"] for each in predicted["top"]] == [each["label"] for each in tried["top"]]
    for ours, theirs in zip(predicted["top"], tried["top"], strict=True):
        assert ours["score"] == pytest.approx(theirs["score"], abs=2e-6)
    assert requests.get(f"{page.url}/project/model.pt", timeout=30).status_code == 400
    onnx = requests.get(f"{page.url}/project/model.onnx", timeout=300)
    assert onnx.status_code == 200, onnx.text
    (tmp_path / "mine.onnx").write_bytes(onnx.content)
    run = command("predict", videos[2], "--model", tmp_path / "mine.onnx", "--format", "json")
    [exported] = json.loads(run.stdout)
    for ours, theirs in zip(exported["top"], tried["top"], strict=True):
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-4)
    own = page.post("try?path=videos/ann_run.avi").json()
    assert own["top"] == tried["top"]


def test_two_pages_that_change_one_row_do_not_overwrite_each_other(page):
    row = {name: page.project()["examples"][0][name] for name in ("path", "label", "group")}
    other = {**row, "label": "run"}
    assert page.post("rows", {"removed": [row], "added": [other]}).status_code == 200
    late = page.post("rows", {"removed": [row], "added": [{**row, "label": "sit"}]})
    assert late.status_code == 409 and "is now 'run'" in late.json()["error"]
    assert page.post("undo").status_code == 200
    assert page.project()["examples"][0]["label"] == "walk"


def test_a_table_that_a_hand_edits_is_followed_and_a_broken_one_is_told(page):
    table = page.folder / "data.csv"
    before = table.read_text()
    seen = page.project()["state"]
    table.write_text(before.replace("ann_walk.avi,walk", "ann_walk.avi,run"))
    page.wait(lambda project: project["examples"][0]["label"] == "run" and project["state"] > seen)
    table.write_text("path,label\n")
    project = page.wait(
        lambda project: project["problem"] and "a project's are" in project["words"]
    )
    assert project["examples"] == []
    refused = page.post("drop", {"path": "videos/ann_walk.avi"})
    assert refused.status_code == 400 and table.read_text() == "path,label\n"
    table.write_text(before)
    page.wait(lambda project: project["figure"] and "a project's are" not in project["words"])


def test_classes_are_added_renamed_put_together_and_removed(page):
    assert page.post("class/add", {"name": "sit"}).status_code == 200
    assert page.post("class/add", {"name": "sit"}).status_code == 409
    # Names that only differ by upper case are one class.
    assert page.post("class/add", {"name": " SIT "}).status_code == 409
    assert page.post("class/rename", {"old": "sit", "new": "run"}).status_code == 409
    assert page.post("class/rename", {"old": "sit", "new": "Run "}).status_code == 409
    assert page.post("class/rename", {"old": "sit", "new": "Sit"}).status_code == 200
    merged = page.post("class/rename", {"old": "walk", "new": "run", "merge": True})
    assert merged.status_code == 200
    assert {each["label"] for each in page.project()["examples"]} == {"run"}
    page.post("undo")
    page.post("class/remove", {"name": "walk"})
    assert [each["path"] for each in page.project()["unlabelled"]] == [
        *("videos/ann_walk.avi", "videos/bob_walk.avi")
    ]
    page.post("undo")
    page.post("drop", {"path": "videos/ann_walk.avi"})
    project = page.project()
    assert "videos/ann_walk.avi" not in {each["path"] for each in project["examples"]}
    assert project["unlabelled"] == []
    for _ in range(3):
        page.post("undo")
    assert [each["name"] for each in page.project()["classes"]] == ["run", "walk"]
    assert len(page.project()["examples"]) == 5


def test_parts_of_a_video_are_examples_too(page):
    part = {"path": "videos/cid_run.avi", "label": "jump", "group": "cid", "start": 0.2, "end": 1.0}
    assert page.post("rows", {"words": "jump", "added": [part]}).status_code == 200
    project = page.wait(lambda project: project["examples"][-1].get("judgement"))
    assert project["examples"][-1]["end"] == 1.0 and "jump" in project["learnt"]
    for wrong, sentence in (
        ({"start": 1.5, "end": 9}, "is outside the video"),
        ({"start": 1, "end": 1}, "start must be before"),
        ({"start": 0, "end": 1, "group": "dan"}, "all parts of a video are of one group"),
        ({"start": 0, "end": 1, "label": " "}, "A class needs a name"),
        ({"start": 0, "end": 1, "path": "videos/../project.json"}, "no path below"),
        ({"start": 0, "end": 1, "path": "videos/none.avi"}, "is no video of the project"),
    ):
        answer = page.post("rows", {"added": [part | wrong]})
        assert answer.status_code == 400 and sentence in answer.json()["error"]
    page.post("undo")


def test_a_video_that_is_deleted_by_hand_is_told_can_be_dropped_and_comes_back(page):
    path = page.folder / "videos" / "bob_run.avi"
    data = path.read_bytes()

    def its(project):
        return next(x for x in project["examples"] if x["path"] == "videos/bob_run.avi")

    path.unlink()
    project = page.wait(lambda project: "not there any more" in (its(project)["problem"] or ""))
    page.wait(lambda project: not its(project)["thumbnails"])
    old = {name: its(project)[name] for name in ("path", "label", "group")}
    change = {"removed": [old], "added": [{**old, "label": "WALK"}]}
    assert page.post("rows", change).status_code == 200
    assert its(page.project())["label"] == "walk"
    page.post("undo")
    assert page.post("drop", {"path": "videos/bob_run.avi"}).status_code == 200
    page.post("undo")
    path.write_bytes(data)
    page.wait(lambda project: its(project)["is_known"] and its(project)["thumbnails"])


def test_bad_files_are_sentences_and_the_rest_goes_on(page, tmp_path, encode):
    text = tmp_path / "notes.mp4"
    text.write_text("not a video\n" * 50)
    assert page.send(text, "walk").status_code == 200
    long = encode(tmp_path / "long.mp4", frames=150)
    assert page.send(long).status_code == 200
    project = page.wait(
        lambda project: all(
            each["problem"] for each in project["unlabelled"] + project["examples"][-1:]
        )
    )
    assert "notes.mp4 could not be read as a video" in project["examples"][-1]["problem"]
    assert "more --max-seconds" in project["unlabelled"][0]["problem"]
    empty = tmp_path / "empty.avi"
    empty.touch()
    assert page.send(empty).json() == {"error": "The file is empty."}
    large = tmp_path / "large.avi"
    large.write_bytes(os.urandom(1_100_000))
    answer = page.send(large)
    assert answer.status_code == 413 and "more --max-megabytes" in answer.json()["error"]
    chunks = (b"x" * 300_000 for _ in range(4))  # without a length
    answer = requests.put(f"{page.url}/project/videos", data=chunks, timeout=30)
    assert answer.status_code == 413
    names = [path.name for path in (page.folder / "videos").iterdir()]
    assert len(names) == 7 and not any(name.startswith(".") for name in names)
    for name in ("notes.mp4", "long.mp4"):
        page.post("drop", {"path": f"videos/{name}"})


def test_names_of_every_script_are_kept_and_never_leave_the_folder(page, videos, tmp_path):
    for number, (name, kept) in enumerate(
        {
            "走る 🏃‍♀️.avi": "走る 🏃‍♀️.avi",
            "50%20#1'&+;=.avi": "50%20#1'&+;=.avi",
            "../../etc/passwd.avi": "passwd.avi",
            "..\\up.avi": "up.avi",
            ".hidden.avi": "hidden.avi",
            "<b>&\n.avi": "_b_&_.avi",
            "": "video",
            "ann_run.avi": "ann_run (2).avi",
            "ü" * 200 + ".avi": None,
        }.items()
    ):
        other = tmp_path / "other.avi"
        other.write_bytes(videos[0].read_bytes() + bytes([number]))
        answer = page.send(other, name=name or " ").json()
        assert kept is None or answer == {"path": f"videos/{kept}", "new": True}
        assert page.send(other, name=name or " ").json() == {"path": answer["path"], "new": False}
        assert (page.folder / answer["path"]).read_bytes() == other.read_bytes()
        page.post("drop", {"path": answer["path"]})


def test_other_pages_and_files_are_not_served(page):
    foreign = {"Origin": "http://evil.example"}
    assert page.post("undo", headers=foreign).status_code == 403
    assert requests.get(f"{page.url}/project", headers=foreign, timeout=30).status_code == 403
    for path in ("project.json", "../mine/data.csv", "/etc/passwd", "videos/none.avi"):
        for what in ("play", "thumbnails"):
            answer = requests.get(f"{page.url}/project/{what}", params={"path": path}, timeout=30)
            assert answer.status_code == 404
    assert requests.get(f"{page.url}/project/assets/page.py", timeout=30).status_code == 404
    for body in ("[]", "no json"):
        answer = requests.post(f"{page.url}/project/drop", data=body, timeout=30)
        assert answer.status_code == 400
    assert page.post("drop", {"path": "videos/none.avi"}).status_code == 400
    assert "lacks 'path'" in page.post("drop", {}).json()["error"]
    for name, values in (
        ("drop", {"path": 1}),
        ("class/add", {"name": None}),
        ("class/rename", {"old": "run", "new": ["x"]}),
        ("rows", {"added": "abc"}),
        ("rows", {"removed": [1]}),
        ("rows", {"added": None}),
        ("group", {"by": {}}),
    ):
        assert page.post(name, values).status_code == 400, (name, values)


def test_a_killed_page_goes_on_with_everything(model, tmp_path, videos):
    with served(model, tmp_path) as page:
        page.post("class/add", {"name": "sit"})
        for path in videos[:3]:
            page.send(path, path.stem.partition("_")[2])
        before = page.project()
        page.process.kill()
        page.process.wait()
    (tmp_path / "mine" / "videos" / ".upload.actionrec.abcdefgh").write_text("half")
    with served(model, tmp_path) as page:
        project = page.wait(lambda project: project["figure"])
        assert [each["name"] for each in project["classes"]] == ["sit", "run", "walk"]
        assert [each["path"] for each in project["examples"]] == [
            each["path"] for each in before["examples"]
        ]
        assert project["undo"] == before["undo"]
        assert len(list((tmp_path / "mine" / "videos").iterdir())) == 3


def test_fine_tuning_stops_goes_on_and_is_compared_with_the_head_on_all_folds(page):
    assert page.post("group", {"by": "name"}).status_code == 200
    project = page.wait(lambda project: project["figure"]["groups"] == 3)
    assert {each["label"] for each in project["examples"]} == {"walk", "run"}
    groups = {each["group"] for each in project["examples"]}
    for wrong in ({"epochs": 0}, {"epochs": True}, {"folds": "some"}):
        assert page.post("train/start", wrong).status_code == 400
    assert page.post("train/start", {"epochs": 20, "folds": "all"}).status_code == 200
    assert "stop it first" in page.post("train/start", {}).json()["error"]
    page.wait(lambda project: project["runs"][-1]["epochs"])
    page.post("train/stop")
    [run] = page.wait(lambda project: project["runs"][-1]["status"] == "stopped")["runs"]
    done = len(run["epochs"])
    assert 0 < done < 20 and run["problem"] is None and run["comparison"] is None
    page.post("train/go-on", {"run": "1"})
    [run] = page.wait(lambda project: project["runs"][-1]["status"] == "done")["runs"]
    assert [each["epoch"] for each in run["epochs"]] == list(range(1, 21))
    assert run["fold"] == run["folds"] == len(groups) == 3
    # Each example was held out once.
    compared = run["comparison"]
    assert (compared["examples"], compared["groups"]) == (5, 3)
    for name in ("fine_tuned", "head_alone"):
        figure = run[name]
        assert figure["right"] == compared[name] and figure["examples"] == 5
        assert 0 <= figure["low"] <= figure["right"] / 5 <= figure["high"] <= 1
    answer = requests.get(f"{page.url}/project/model.safetensors?run=1", timeout=30)
    assert answer.content == (page.folder / "runs" / "1" / "model.safetensors").read_bytes()
    missing = requests.get(f"{page.url}/project/model.safetensors?run=../1", timeout=30)
    assert missing.status_code == 400


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium or Chrome on this machine")
def test_in_a_browser_a_class_is_taught_tried_and_undone_by_keyboard(page, videos):
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as library:
        tab = library.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"]).new_page(
            viewport={"width": 400, "height": 800}
        )
        tab.set_default_timeout(60_000)
        errors = []
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.goto(f"{page.url}/teach")
        tab.focus("#new-class-name")
        tab.keyboard.type("<i>hop</i>")
        tab.keyboard.press("Enter")
        tab.wait_for_selector("#class-list >> text=<i>hop</i>")
        tab.select_option("#mark-video", "videos/ann_run.avi")
        tab.wait_for_function("document.querySelector('#mark-player').readyState > 0")
        tab.focus("#strip")
        tab.keyboard.press("i")
        for key in (".", ".", ".", ".", ".", "o", "3"):
            tab.keyboard.press(key)
        tab.wait_for_selector("#parts li")
        marked = page.project()["examples"][-1]
        assert (marked["start"], marked["end"]) == (0, pytest.approx(0.2, abs=0.01))
        assert tab.evaluate("document.documentElement.scrollWidth") <= 400
        tab.set_input_files("#try-file", str(videos[0]))
        tab.wait_for_selector("#tried dl")
        tab.goto(f"{page.url}/review")
        tab.click("[data-queue=unsure]")
        tab.wait_for_selector("#accept")
        first = tab.inner_text("#card h2")
        tab.evaluate("document.activeElement.blur()")
        tab.keyboard.press("Enter")
        tab.wait_for_function(f"document.querySelector('#card h2').innerText != {first!r}")
        for _ in range(2):
            tab.click("#undo")
            tab.wait_for_timeout(300)
        tab.goto(f"{page.url}/train")
        tab.wait_for_selector("#head-files a")
        assert errors == []
