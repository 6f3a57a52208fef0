"""The page of a report shows what went wrong, with frames and links, and runs nothing."""

import base64
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from actionrec.evaluation.accuracy import evaluation_of
from actionrec.evaluation.gallery import (
    FRAME_HEIGHT,
    confusions,
    doubtful_labels,
    gallery_of,
    mistakes_of,
    strip,
    unsure_hits,
)
from actionrec.evaluation.logits import ClipLogits
from actionrec.evaluation.report import link_to, write_report
from actionrec.models.decision import Decision
from actionrec.video.parts import VideoSegment

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
NASTY = "<script>x</script>"


def logits_of(scores, truths, decision=None, labels=("run", "jump", NASTY)):
    """Logits of one clip a video whose scores are these."""
    scores = np.array(scores, dtype=np.float64)
    several = decision is not None
    values = np.log(scores / (1 - scores)) if several else np.log(scores)
    return ClipLogits(
        logits=values.astype(np.float32)[:, None, None],
        counts=np.ones(len(scores), dtype=np.int64),
        truths=np.array(truths),
        videos=tuple(f"{number}.mp4" for number in range(len(scores))),
        labels=labels,
        protocol={"model": "m", "dataset": "csv"},
        decision=decision or Decision(),
    )


@pytest.fixture
def scored():
    scores = [
        [0.90, 0.05, 0.05],  # right and sure
        [0.40, 0.35, 0.25],  # right, hardly
        [0.30, 0.65, 0.05],  # wrong
        [0.02, 0.97, 0.01],  # wrong and sure: the label looks wrong
        [0.10, 0.80, 0.10],  # right
        [0.15, 0.15, 0.70],  # right
    ]
    return logits_of(scores, [0, 0, 0, 0, 1, 2])


def test_mistakes_come_by_how_sure_they_are_and_hits_by_how_unsure(scored):
    assert [case.video for case in mistakes_of(scored)] == [3, 2]
    assert [case.video for case in unsure_hits(scored)][:2] == [1, 5]
    [(true, given, cases)] = gallery_of(scored).pairs
    assert (true, given, len(cases)) == (0, 1, 2)


def test_a_label_looks_wrong_where_another_scores_as_where_it_is_the_label(scored):
    [case] = doubtful_labels(scored)
    assert (case.video, case.true, case.about) == (3, (0,), 1)


def test_with_several_labels_a_missed_one_and_a_wrong_one_are_mistakes():
    decision = Decision(multi_label=True, thresholds=(0.5, 0.5, 0.5))
    scores = [[0.9, 0.1, 0.1], [0.9, 0.9, 0.1], [0.45, 0.1, 0.1], [0.1, 0.1, 0.2], [0.6, 0.6, 0.1]]
    truths = [[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 0]]
    scored = logits_of(scores, truths, decision)
    first, second = mistakes_of(scored)
    assert (first.video, first.about) == (1, 0) and confusions(first) == [(-1, 0)]
    assert (second.video, second.about) == (2, 0) and confusions(second) == [(0, -1)]
    assert [case.video for case in unsure_hits(scored)] == [4, 3, 0]


def test_a_strip_shows_frames_of_the_video_or_of_its_part(encode, tmp_path):
    path = encode(tmp_path / "video.mp4", frames=32)
    pictures = [strip(path), strip(VideoSegment(path, 0.0, 0.16)), strip(tmp_path / "none.mp4")]
    whole, part = (Image.open(io.BytesIO(base64.b64decode(data))) for data in pictures[:2])
    assert whole.height == part.height == FRAME_HEIGHT and part.width < whole.width
    assert pictures[2] is None


def test_links_lead_from_the_page_to_the_video(tmp_path):
    video = tmp_path / "my videos" / "a#1?.mp4"
    assert link_to(video, tmp_path / "report") == "../my%20videos/a%231%3F.mp4"
    assert link_to(VideoSegment(video, 1.5, 3), tmp_path).endswith("%3F.mp4#t=1.5,3")
    assert link_to(tmp_path / "a:b.mp4", tmp_path) == "a%3Ab.mp4"


def test_the_page_runs_nothing_and_shows_names_as_text(scored, encode, tmp_path):
    paths = [encode(tmp_path / f"{number}.mp4", frames=12) for number in range(6)]
    write_report(tmp_path / "report", scored, evaluation_of(scored), paths)
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;" in page
    assert "default-src 'none'" in page and not re.search(r'(src|href)="https?:', page)
    assert page.count("data:image/jpeg;base64,") >= 4
    for link in re.findall(r'href="([^"#]+)"', page):
        assert Path(tmp_path / "report" / link).resolve() in paths


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="there is no browser")
def test_the_page_fits_a_phone(scored, encode, tmp_path):
    library = pytest.importorskip("playwright.sync_api")
    paths = [encode(tmp_path / f"{number}.mp4", frames=12) for number in range(6)]
    write_report(tmp_path / "report", scored, evaluation_of(scored), paths)
    with library.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 400, "height": 800})
        page.goto((tmp_path / "report" / "report.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        assert not page.locator("#pairs article").first.is_visible()
        page.locator("#pairs summary").first.click()
        assert page.locator("#pairs article").first.is_visible()
        browser.close()
