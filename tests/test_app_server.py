"""`actionrec app`: the page shows the results of `actionrec timeline`, says why a video is bad,
goes on, and keeps everything to this machine."""

import html
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import wave
from contextlib import contextmanager

import av
import pytest
import requests

from actionrec.cli.main import main
from actionrec.prediction.timeline import score_timeline
from actionrec.recognizer import Recognizer

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@pytest.fixture(scope="module")
def video(tmp_path_factory, encode):
    return encode(tmp_path_factory.mktemp("video") / "my clip.mp4", "libx264", frames=60)


class Page:
    """A running `actionrec app`: its address, and the folder that holds its temporary folder."""

    def __init__(self, process, url, temporary):
        self.process, self.url, self.temporary = process, url, temporary

    def ask(self, path):
        """Start to recognise a video; the job of gradio_client has a list of what the page shows
        after each step: status, upload, player, timeline, labels, caption, explanation."""
        from gradio_client import Client, handle_file

        client = Client(
            self.url,
            verbose=False,
            analytics_enabled=False,
            download_files=False,
            httpx_kwargs={"timeout": 100},
        )
        return client.submit(handle_file(str(path)), api_name="/recognise")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def served(model, temporary):
    port = free_port()
    arguments = ["--model", model, "--port", port, "--max-seconds", 3, "--max-megabytes", 1]
    process = subprocess.Popen(
        [sys.executable, "-m", "actionrec", "app", *map(str, arguments)]
        + ["--precision", "float32"],
        env=os.environ
        | {"TMPDIR": str(temporary), "GRADIO_ALLOWED_PATHS": "/etc"}
        | {"ALL_PROXY": "socks5://127.0.0.1:9"},
        cwd=temporary,
        stdout=subprocess.PIPE,
        stderr=(temporary / "stderr").open("w"),
        text=True,
    )
    try:
        url = process.stdout.readline().strip()
        assert url == f"http://127.0.0.1:{port}", (temporary / "stderr").read_text()
        yield Page(process, url, temporary)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def served_page(model, tmp_path_factory):
    with served(model, tmp_path_factory.mktemp("temporary")) as page:
        yield page


def shown(job):
    """The last value that each part of the page was given; None for one that got none."""
    job.result(timeout=600)
    given = [
        [value for value in values if not (isinstance(value, dict) and "__type__" in value)]
        for values in zip(*job.outputs(), strict=True)
    ]
    return [values[-1] if values else None for values in given]


def test_labels_and_segments_are_those_of_the_timeline(served_page, model, video, capsys):
    arguments = ["--model", model, "--precision", "float32", "--format", "json"]
    assert main(["timeline", str(video), *map(str, arguments)]) == 0
    [expected] = json.loads(capsys.readouterr().out)
    status, _, _, timeline, labels, caption, explanation = shown(served_page.ask(video))
    assert status == ""
    assert [
        (entry["label"], pytest.approx(entry["confidence"], abs=1e-5))
        for entry in labels["confidences"]
    ] == [(entry["label"], entry["score"]) for entry in expected["top"]]
    strip = timeline.partition('class="segments"')[0]
    segments = re.findall(r'data-start="(.+?)" data-end="(.+?)".+?>(\w+)</button>', strip)
    assert [(float(start), float(end), label) for start, end, label in segments] == [
        (segment["start"], segment["end"], segment["label"]) for segment in expected["segments"]
    ]
    assert f"Why <b>{expected['top'][0]['label']}</b>" in caption
    heat_map = requests.get(explanation["url"], timeout=60)
    assert heat_map.headers["content-type"] == "video/mp4" and b"ftyp" in heat_map.content[:16]


def not_a_video(path):
    path.write_text("not a video\n" * 100)


def sound_alone(path):
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(16_000))


def no_frames(path):
    with av.open(str(path), "w") as file:
        file.add_stream("libx264", rate=25)
        file.start_encoding()


@pytest.mark.parametrize(
    ("make", "name", "words"),
    [
        (not_a_video, "my notes.mp4", "my notes.mp4 could not be read as a video"),
        (sound_alone, "song.wav", "song.wav has no video stream"),
        (no_frames, "nothing.mp4", "nothing.mp4 "),
        (None, "long.mp4", "long.mp4 lasts 0:04, longer than the 0:03"),
    ],
)
def test_a_bad_video_gives_a_sentence_with_its_own_name_and_the_next_one_works(
    served_page, video, encode, tmp_path, make, name, words
):
    path = tmp_path / name
    if make is None:
        encode(path, "libx264", frames=100)
    else:
        make(path)
    status, *_, labels, _, explanation = shown(served_page.ask(path))
    sentence = html.unescape(status)
    assert 'role="alert"' in status and words in sentence
    assert labels is None and explanation is None
    assert str(served_page.temporary) not in sentence
    status, *_, labels, _, explanation = shown(served_page.ask(video))
    assert status == "" and labels["label"] and explanation


@pytest.mark.slow
def test_ten_uploads_at_once_all_finish(served_page, video):
    jobs = [served_page.ask(video) for _ in range(10)]
    answers = [shown(job) for job in jobs]
    assert all(answer[0] == "" and answer[-1] for answer in answers)
    assert len({answer[4]["confidences"][0]["confidence"] for answer in answers}) == 1


def test_only_this_machine_and_this_page_are_answered(served_page):
    url = served_page.url
    port = int(url.rpartition(":")[2])

    def get(path, **headers):
        return requests.get(url + path, headers=headers, timeout=60, allow_redirects=False)

    assert get("/").status_code == 200
    assert get("/", Host="rebound.example").status_code == 403
    assert get("/", Origin="http://elsewhere.example").status_code == 403
    assert "default-src 'self'" in get("/").headers["content-security-policy"]
    # All of 127.0.0.0/8 is this machine; who listens on all addresses is reached there, too.
    with pytest.raises(OSError), socket.create_connection(("127.0.0.2", port), timeout=2):
        pass
    for path in ("file=/etc/passwd", "file=/etc/../etc/passwd", "file=http://127.0.0.1/",
                 "file=https://example.com", "proxy=https://example.com"):  # fmt: skip
        assert get(f"/gradio_api/{path}").status_code == 403, path
    for path in ("/monitoring", "/gradio_api/vibe-code", "/docs", "/openapi.json"):
        assert get(path).status_code in (403, 404), path


def test_a_path_or_an_address_is_no_upload(served_page, model):
    for path in ("/etc/passwd", "http://example.com/video.mp4"):
        data = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}, model]}
        call = f"{served_page.url}/gradio_api/call/recognise"
        event = requests.post(call, json=data, timeout=60).json()["event_id"]
        answer = requests.get(f"{call}/{event}", timeout=60).text
        assert answer.startswith("event: error"), answer
    # Gradio's own refusal of an address that it could fetch would be another one.
    assert "no addresses" in answer


def test_an_upload_that_is_too_large_is_refused(served_page):
    files = {"files": ("large.mp4", bytes(1_200_000))}
    answer = requests.post(f"{served_page.url}/gradio_api/upload", files=files, timeout=60)
    assert answer.status_code == 413


def test_an_upload_that_is_cut_off_is_deleted_at_once_and_whole_ones_stay(served_page, video):
    files = next(served_page.temporary.glob("actionrec-app-*/files"))

    def parts():
        return [path for path in files.iterdir() if path.is_file()]

    whole = requests.post(
        f"{served_page.url}/gradio_api/upload", files={"files": video.open("rb")}, timeout=60
    )
    boundary = b"--b\r\nContent-Disposition: form-data; name=files; filename=cut.mp4\r\n\r\n"
    port = int(served_page.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(
            f"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 900000"
            "\r\nContent-Type: multipart/form-data; boundary=b\r\n\r\n".encode()
        )
        client.sendall(boundary + bytes(400_000))
        wait_until(parts)
    wait_until(lambda: not parts())
    assert os.path.getsize(whole.json()[0]) == video.stat().st_size
    assert "ClientDisconnect" not in (served_page.temporary / "stderr").read_text()


def wait_until(condition):
    end = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
def test_the_next_page_deletes_what_a_killed_one_left_and_nothing_of_a_running_one(
    model, served_page
):
    temporary = served_page.temporary
    [running] = temporary.glob("actionrec-app-*")
    with served(model, temporary) as page:
        [killed] = set(temporary.glob("actionrec-app-*")) - {running}
        page.process.kill()
        page.process.wait()
        assert killed.is_dir()
    with served(model, temporary):
        assert running.is_dir() and not killed.exists()


@pytest.mark.slow
def test_ctrl_c_while_it_computes_leaves_nothing_behind(model, encode, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    large = encode(tmp_path / "large.mp4", "libx264", 70, (1280, 720), options={"crf": "40"})
    with served(model, temporary) as page:
        job = page.ask(large)
        while not job.outputs():
            time.sleep(0.01)
        assert list(temporary.glob("actionrec-app-*/files/*/large.mp4"))
        page.process.send_signal(signal.SIGINT)
        assert page.process.wait(timeout=100) == 0
        assert "Traceback" not in (temporary / "stderr").read_text()
        # PyTorch has a folder of its own there.
        left = {path.name for path in temporary.iterdir() if not path.name.startswith("torch")}
        assert left == {"stderr"}


def test_a_port_in_use_gives_a_sentence_with_another_one(model, capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert main(["app", "--model", model, "--port", str(port)]) == 1
        sentence = capsys.readouterr().err
    assert f"Port {port} can't be listened on" in sentence
    assert int(re.search(r"--port (\d+)", sentence)[1]) != port
    with pytest.raises(SystemExit, match="2"):
        main(["app", "--port", "70000"])


def test_without_gradio_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setattr("actionrec.app.server.find_spec", lambda name: None)
    assert main(["app"]) == 2
    assert 'pip install "actionrec[app]"' in capsys.readouterr().err


@pytest.fixture(scope="module")
def browser():
    if BROWSER is None:
        pytest.skip("there is no Chromium or Chrome on this machine to look at the page with")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as library:
        yield library.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])


@pytest.mark.slow
def test_the_page_shows_label_timeline_and_heat_map_in_a_browser(
    served_page, browser, small_recognizer, encode, video, tmp_path
):
    tab = browser.new_page()
    tab.set_default_timeout(60_000)
    hosts, errors = set(), []
    tab.on("request", lambda request: hosts.add(re.match(r"\w+:(//[^/]+)?", request.url)[0]))
    tab.on("pageerror", lambda error: errors.append(error))
    tab.goto(served_page.url)

    def upload(path):
        tab.wait_for_selector("#upload input[type=file]", state="attached")
        tab.set_input_files("#upload input[type=file]", path)

    def shows(path, label):
        upload(path)
        # On a busy machine the server takes its time; what it has sent is shown at once.
        tab.wait_for_selector("button:has-text('Another video')", timeout=300_000)
        tab.wait_for_selector(f"#labels >> text={label}")
        tab.wait_for_function(
            "() => document.querySelector('#explanation video')?.videoWidth > 0"
            " && document.querySelector('#player video')?.videoWidth > 0"
        )
        assert tab.locator("#timeline .strip button").first.inner_text() == label
        assert tab.locator("#status").inner_text().strip() == ""
        # Gradio's own track has none.
        return tab.evaluate(
            "() => [...document.querySelector('#player video').textTracks]"
            ".flatMap(track => [...track.cues ?? []]).map(cue => cue.text)"
        )

    timeline = score_timeline(Recognizer(small_recognizer, "cpu", "float32"), video)
    label = timeline.top[0].label
    cues = shows(video, timeline.segments[0].label)
    assert cues == [f"{part.label} ({part.score:.0%})" for part in timeline.segments]
    assert tab.locator("#labels").inner_text().split("\n")[1].strip() == label
    tab.click("text=Another video")
    tab.wait_for_selector("#player", state="hidden")
    not_a_video(tmp_path / "notes.mp4")
    upload(tmp_path / "notes.mp4")
    tab.wait_for_selector("#status [role=alert] >> text=notes.mp4 could not be read as a video")
    assert not tab.is_visible("#labels")
    # One that has to be converted.
    shows(encode(tmp_path / "next.avi", frames=60), label)
    tab.wait_for_timeout(500)
    assert tab.locator(".toast-body").count() == 0
    assert errors == []
    assert hosts <= {served_page.url, "blob:", "data:"}
