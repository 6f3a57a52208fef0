"""Make docs/images/teach.png, review.png and train.png: the page with a project of demo videos.

    actionrec train --config demo.yaml --root demo_videos
    python scripts/make_teach_pictures.py demo_videos runs/demo/model.safetensors

The page learns four motions from validation groups of the demo videos, which the model has not been
trained on; two groups without labels wait in Review; a video that is joined from four has marked
parts; a fine-tuning is compared with the head on all folds. Takes Chromium or Chrome, and
playwright.
"""

import argparse
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from make_readme_picture import join
from PIL import Image

try:
    from playwright.sync_api import Page, sync_playwright
except ImportError:  # help needs none
    Page = sync_playwright = None

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CLASSES = {
    "MoveRight": "moves right",
    "MoveUp": "moves up",
    "Expand": "expands",
    "TurnClockwise": "turns",
}
LABELLED, UNLABELLED = range(1, 6), range(6, 8)  # of the validation groups, 1 to 7
WIDTH = 1000  # pixels of the page, and of a picture


class Project:
    """The addresses of a running page."""

    def __init__(self, url: str) -> None:
        self.url = url

    def post(self, name: str, values: dict[str, Any]) -> None:
        requests.post(f"{self.url}/project/{name}", json=values, timeout=60).raise_for_status()

    def add(self, video: Path, name: str, label: str = "") -> None:
        query = {"name": name, "label": label}
        data = video.read_bytes()
        address = f"{self.url}/project/videos"
        requests.put(address, params=query, data=data, timeout=60).raise_for_status()

    def wait(self, condition: Callable[[dict[str, Any]], Any]) -> None:
        while not condition(requests.get(f"{self.url}/project", timeout=60).json()):
            time.sleep(1)


@contextmanager
def served(folder: Path, model: str) -> Iterator[Project]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "actionrec", "app", "--project", "motions"]
    command += ["--model", model, "--port", str(port)]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    try:
        yield Project(process.stdout.readline().strip())
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def fill(project: Project, videos: Path, folder: Path, epochs: int) -> None:
    """Teach the page, and wait until everything that the pictures show is there."""
    for group in (*LABELLED, *UNLABELLED):
        for number, (motion, name) in enumerate(CLASSES.items(), 1):
            video = videos / motion / f"v_{motion}_g{group:02}_c01.avi"
            if group in LABELLED:
                project.add(video, f"disc{group}_{motion}.avi", name)
            else:
                project.add(video, f"disc{group}_{number}.avi")
    project.post("group", {"by": "name"})
    joined = folder / "joined.mp4"
    join([videos / motion / f"v_{motion}_g03_c02.avi" for motion in CLASSES], joined)
    project.add(joined, "four motions.mp4")
    for number, name in enumerate(list(CLASSES.values())[:3]):
        part = {"path": "videos/four motions.mp4", "label": name, "group": "disc3"}
        part |= {"start": 1.28 * number, "end": 1.28 * (number + 1)}
        project.post("rows", {"words": f"{name} in four motions", "added": [part]})
    project.wait(
        lambda told: (
            told["figure"]
            and told["doing"] is None
            and all(each["thumbnails"] for each in told["examples"] + told["unlabelled"])
        )
    )
    project.post("train/start", {"epochs": epochs, "folds": "all"})
    project.wait(lambda told: told["runs"][-1]["status"] in ("done", "failed"))


def photograph(tab: "Page", url: str, output: Path) -> None:
    """Save the three pages as pictures."""

    def save(name: str, height: int) -> None:
        tab.set_viewport_size({"width": WIDTH, "height": height})
        tab.wait_for_timeout(1500)
        path = output / f"{name}.png"
        tab.screenshot(path=path)
        picture = Image.open(path).convert("RGB")
        picture.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")

    tab.goto(f"{url}/teach")
    tab.select_option("#mark-video", "videos/four motions.mp4")
    tab.wait_for_function("document.querySelector('#mark-player').readyState > 1")
    tab.evaluate("document.querySelector('#mark-player').currentTime = 4.4")
    tab.wait_for_timeout(1000)
    tab.evaluate("document.querySelector('#mark').scrollIntoView()")
    save("teach", 800)
    tab.goto(f"{url}/review")
    tab.wait_for_function("document.querySelector('#card video')?.readyState > 1")
    save("review", 700)
    tab.goto(f"{url}/train")
    tab.wait_for_selector("#runs svg")
    # Without the command, which names a temporary folder.
    save("train", 755)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("videos", type=Path, help="Folder of the demo videos.")
    parser.add_argument("model", type=Path, help="Model trained on them.")
    parser.add_argument("--epochs", type=int, default=8, help="Of a fold of the fine-tuning.")
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None or sync_playwright is None:
        parser.error("the pictures need Chromium or Chrome, and `pip install playwright`")
    videos = options.videos.absolute()
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as library:
        folder = Path(temporary)
        with served(folder, str(options.model.absolute())) as project:
            fill(project, videos, folder, options.epochs)
            tab = library.chromium.launch(executable_path=browser, args=["--no-sandbox"]).new_page()
            photograph(tab, project.url, options.output)


if __name__ == "__main__":
    main()
