"""Sheets and videos of heat maps show the right frame, with the ring at the point."""

from dataclasses import replace

import av
import numpy as np
import pytest

from actionrec.errors import UsageError
from actionrec.explanation.clip import Point
from actionrec.explanation.heat_maps import Explanation, HeatMap
from actionrec.explanation.pictures import overlay, picture_paths, sheet, write_overlay, write_video
from actionrec.video.reader import VideoReader


@pytest.fixture
def explanation():
    """Eight frames, 64 wide and 48 high, of which the network sees columns 8 to 55, and a heat map
    whose highest number is at frame 3, row 10, column 40."""
    time, rows, columns = np.indices((8, 48, 64))
    heat = np.exp(-((rows - 10) ** 2 + (columns - 40) ** 2) / 200 - abs(time - 3) / 4)
    heat[:, :, :8] = heat[:, :, 56:] = np.nan
    return Explanation(
        video="clip.mp4",
        model="kinetics400-i3d",
        method="affinity",
        label="archery",
        score=0.5,
        start=0.2,
        end=0.52,
        fps=25,
        times=np.arange(5, 13) / 25,
        frames=np.repeat(160 - columns[..., None], 3, axis=3).astype(np.uint8),
        size=(48, 64),
        seen=(0, 8, 48, 48),
        maps=(HeatMap("row A[i, :]", "A[i, j]", heat[::2, 2::8, 8:56:8], heat),),
        point=Point(20, 30, 0.32, frame=3, position=(2, 4, 2), frames=range(3, 5)),
    )


def test_overlays_colour_what_the_network_sees_and_darken_the_rest(explanation):
    plain, coloured = (overlay(explanation, shown, 3) for shown in (None, explanation.maps[0]))
    frame = explanation.frames[3].astype(int)
    np.testing.assert_array_equal(plain[:, 8:56], frame[:, 8:56])
    assert (plain[:, :8] < 0.4 * frame[:, :8]).all() and (plain[:, 56:] < 0.4 * frame[:, 56:]).all()
    assert np.ptp(coloured[:, :8].astype(int), axis=2).max() == 0
    assert np.ptp(coloured[10, 40].astype(int)) > 40


def test_the_sheet_has_the_frame_of_the_point_with_a_ring_on_it(explanation):
    figure = sheet([explanation, explanation])
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == 2 * 2 * 6
    shown = [axes for axes in panels if axes.get_title() == "0.32 s"]
    assert len(shown) == 2
    [ring] = shown[0].lines
    assert ring.get_visible() and (ring.get_xdata()[0], ring.get_ydata()[0]) == (20, 30)
    ringed = sum(axes.lines[0].get_visible() for axes in panels)
    assert ringed == 2 * 2 * len({3, 4} & {0, 1, 3, 4, 6, 7})
    assert "“archery”" in figure.get_suptitle()


def test_a_label_is_drawn_as_it_is_though_it_looks_like_a_formula(explanation, tmp_path):
    title = "HiResCAM of “pay $\\foo$\x1b”"
    [heat_map] = explanation.maps
    labelled = replace(explanation, maps=(replace(heat_map, title=title),))
    figure = sheet([labelled])
    figure.savefig(tmp_path / "sheet.png")
    assert "HiResCAM of “pay $\\foo$\\x1b”" in {axes.get_ylabel() for axes in figure.axes}
    write_video([labelled], tmp_path / "heat.mp4")


def test_a_heat_map_of_zeros_can_be_drawn(explanation, tmp_path):
    [heat_map] = explanation.maps
    zeros = replace(heat_map, values=0 * heat_map.values, over_frames=0 * heat_map.over_frames)
    sheet([replace(explanation, maps=(zeros,))]).savefig(tmp_path / "zeros.png")


def test_the_video_has_each_frame_of_the_clip_at_its_rate(explanation, tmp_path):
    write_video([explanation], tmp_path / "heat.mp4")
    with av.open(str(tmp_path / "heat.mp4")) as container:
        [stream] = container.streams
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert (stream.average_rate, len(pictures)) == (25, 8)
    # The ring comes with frame 3 and goes after frame 4.
    white = [int((picture > 230).all(axis=2).sum()) for picture in pictures]
    assert min(white[3:5]) > max(white[:3] + white[5:])


def test_the_overlay_is_the_heat_map_over_the_clip_with_a_ring_at_the_point(explanation, tmp_path):
    write_overlay(explanation, tmp_path / "overlay.mp4")
    write_overlay(replace(explanation, point=None), tmp_path / "no_ring.mp4")
    ringed, plain = (
        VideoReader(tmp_path / name).read(range(4)).astype(int)
        for name in ("overlay.mp4", "no_ring.mp4")
    )
    for index, picture in enumerate(plain):
        heat = overlay(explanation, explanation.maps[0], index).astype(int)
        assert np.abs(picture - heat).mean() < 10
        rows, columns = np.nonzero(np.abs(ringed[index] - picture).max(axis=2) > 60)
        assert bool(len(rows)) == (index in explanation.point.frames)
        if len(rows):
            assert abs(rows.mean() - 30) < 3 and abs(columns.mean() - 20) < 3


def test_pictures_are_called_after_the_video_and_replace_nothing(tmp_path):
    names = [path.name for path in picture_paths(tmp_path / "new", "some/archery.avi")]
    assert names == ["archery_explanation.png", "archery_explanation.mp4"]
    assert picture_paths(tmp_path / "a.PNG", "b.avi") == [tmp_path / "a.PNG"]
    (tmp_path / "archery_explanation.mp4").touch()
    with pytest.raises(UsageError, match="is there already"):
        picture_paths(tmp_path, "archery.avi")
    with pytest.raises(UsageError, match="must end in .png"):
        picture_paths(tmp_path / "a.gif", "archery.avi")
