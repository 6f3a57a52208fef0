"""The HTML of the page has the results in it, and names as nothing but text."""

import html as standard_html
import re

import pytest

pytest.importorskip("gradio")

from actionrec.app.page import colours, html, lanes
from actionrec.app.service import Progress
from actionrec.prediction.timeline import Segment, Timeline
from actionrec.prediction.videos import LabelScore

NASTY = "<b>${alert(1)} {{x}} & ` \" '"


def timeline(*segments):
    top = [LabelScore(NASTY, 0.9)]
    return Timeline("v.mp4", "m", top, [], list(segments), 10.0, 10.0, None, [])


def test_names_are_text_to_html_and_to_gradios_templates():
    result = timeline(Segment(NASTY, 2.5, 5.0, 0.9), Segment("run", 5.0, 10.0, 0.5))
    for written in (
        html.problem(NASTY),
        html.progress_bar(Progress(NASTY, 0.5)),
        html.timeline(result, colours(result), lanes(result)),
    ):
        assert not set("${}`") & set(written)
        assert "<b>$" not in written and "alert(1)" in written
        assert NASTY in standard_html.unescape(written)
        assert "alert" not in re.sub(r'"[^"]*"', "", " ".join(re.findall("<[^>]*>", written)))


def test_a_segment_is_as_long_in_the_strip_as_in_the_video():
    result = timeline(Segment("walk", 2.5, 5.0, 0.93), Segment("run", 5.0, 62.04, 0.5))
    written = html.timeline(result, colours(result), lanes(result))
    assert "left:25.0%;width:25.0%;background:#1f77b4" in written
    assert (
        'data-start="2.5" data-end="5.0" data-score="93%" title="walk, 0:02.5 – 0:05.0"' in written
    )
    assert "<b>run</b><span>0:05.0 – 1:02.0</span><span>50%</span>" in written
    assert "No action scores enough" in html.timeline(timeline(), {}, {})
