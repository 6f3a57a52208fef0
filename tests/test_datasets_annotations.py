"""Annotations of other tools become rows that train, and what is lost or wrong is said."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from actionrec.cli.main import main
from actionrec.config import TrainConfig
from actionrec.datasets.annotations.annotation import file_name
from actionrec.datasets.annotations.importing import import_annotations
from actionrec.datasets.annotations.registry import FORMATS, read_annotations
from actionrec.datasets.csv import open_csv
from actionrec.errors import ActionrecError
from actionrec.training.run import train

FIXTURES = Path(__file__).with_name("data") / "annotations"
FILES = {
    "activitynet": ["activitynet.json"],
    "cvat": [f"cvat/yard{n}.xml" for n in range(1, 6)],
    "labelstudio": ["labelstudio.json"],
    "via": ["via.json"],
    "elan": [f"elan/yard{n}.eaf" for n in range(1, 6)],
    "kinetics": ["kinetics.csv"],
    "hacs": ["hacs.csv"],
}
YARDS = [f"yard{n}.mp4" for n in range(1, 6)]
# The rows of yard1.mp4, or of the first video, and of how many videos.
EXPECTED = {
    "activitynet": (
        "v_a1b2C3d4E5F.mp4",
        [("Long jump", "train", "0", "1.04"), ("High jump", "train", "1.4", "3.2")],
        4,
    ),
    "cvat": ("yard1.mp4", [("walk", None, "0.2", "0.52"), ("wave", None, "2.48", "3.2")], 5),
    "labelstudio": ("yard1.mp4", [("walk", None, "0.2", "1.2"), ("wave", None, "1.2", "3")], 5),
    "via": ("yard1.mp4", [("walk", None, "0.2", "1.2"), ("wave", None, "1.2", "3")], 5),
    "elan": ("yard1.mp4", [("walk", None, "0.2", "1.2"), ("wave", None, "1.2", "3")], 5),
    "kinetics": ("-x_Yz0123456_000007_000010.mp4", [("high jump", "train", "", "")], 4),
    "hacs": (
        "v_a1b2C3d4E5F.mp4",
        [("Long jump", "train", "0", "1"), ("High jump", "train", "1.4", "3")],
        3,
    ),
}
LOST = {
    "activitynet": ["testing videos without annotations (1)", "nodes of the taxonomy (2)"],
    "cvat": ["boxes and other shapes (27)", "attributes of shapes (1)"],
    "labelstudio": ["tracks of boxes (1)", "skipped annotations (1)"],
    "via": [
        "other attributes of segments (5)",
        "regions (boxes, polygons, ...) (1)",
        "segments without a label (1)",
        "attribute TEMPORAL-SEGMENTS, not of speed",
    ],
    "elan": [
        "annotations that refer to others (1)",
        "empty tiers (1)",
        "annotations whose times are interpolated (1)",
        "annotations without a text (1)",
        "labels of 2 tiers are there: action, mood",
    ],
    "kinetics": ["marks of Creative Commons (is_cc) (4)"],
    "hacs": [
        "clips that do not show their class (label -1) (3)",
        "testing clips without annotation (1)",
    ],
}


@pytest.fixture(scope="module")
def footage(tmp_path_factory, encode):
    """Videos of 80 frames, 3.2 s, with the names that the fixtures have."""
    folder = tmp_path_factory.mktemp("footage")
    one = encode(folder / "yard1.mp4", "libx264", frames=80)
    ids = ["a1b2C3d4E5F", "-x_Yz0123456", "Qwertyuiop1", "zXcVbNm-_09"]
    names = [*YARDS[1:], *(f"v_{name}.mp4" for name in ids), "-x_Yz0123456_000007_000010.mp4"]
    for name in names:
        (folder / "deeper").mkdir(exist_ok=True)
        shutil.copy(one, folder / "deeper" / name)
    return folder


def rows_of(file):
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_becomes_rows_of_segments_and_says_what_is_lost(name, footage, tmp_path):
    files = [FIXTURES / file for file in FILES[name]]
    output = tmp_path / "data.csv"
    result = import_annotations(files, output, videos=footage)
    assert result.failures == []
    rows = rows_of(output)
    video, expected, videos = EXPECTED[name]
    mine = [row for row in rows if Path(row["path"]).name == video]
    assert [(row["label"], row.get("split"), row["start"], row["end"]) for row in mine] == expected
    assert all((tmp_path / row["path"]).is_file() for row in rows)
    assert result.videos == len({row["path"] for row in rows}) == videos
    told = " ".join(result.notes)
    for lost in LOST[name]:
        assert lost in told
    dataset = open_csv(output)
    assert len(dataset.train) + len(dataset.val) == len(rows) == result.rows
    assert read_annotations(files[0], name) == read_annotations(files[0])


def test_two_commands_lead_from_annotations_to_a_model(footage, tmp_path, capsys):
    output = tmp_path / "data.csv"
    files = [str(FIXTURES / file) for file in FILES["labelstudio"]]
    assert main(["data", "import", *files, "--output", str(output), "--videos", str(footage)]) == 0
    assert f"actionrec train --dataset csv --root {output}" in capsys.readouterr().out
    results = train(
        TrainConfig(
            "csv",
            root=str(output),
            backbone="c3d_small",
            weights="none",
            epochs=1,
            batch_size=4,
            crop=32,
            short_side=32,
            workers=0,
            output=str(tmp_path / "run"),
        )
    )
    assert results["last"]["clip"]["n"] == 2
    assert main(["data", "import", *files, "--output", str(output), "--videos", str(footage)]) == 2
    assert "is there already" in capsys.readouterr().err


def altered(tmp_path, name, change):
    """The first fixture of a format with its text changed."""
    file = FIXTURES / FILES[name][0]
    text = file.read_text(encoding="utf-8")
    new = change(text)
    assert new != text
    copy = tmp_path / file.name
    copy.write_text(new, encoding="utf-8")
    return copy


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("activitynet", lambda t: t.replace("VERSION 1.3", "VERSION 2.0"), "is of VERSION 2.0"),
        ("activitynet", lambda t: t[: len(t) // 2], "can't be read as annotations"),
        ("activitynet", lambda t: t.replace('"segment"', '"span"'), "KeyError: 'segment'"),
        ("activitynet", lambda t: t.replace('"High jump"', "7"), "the label 7, which is no text"),
        ("cvat", lambda t: t.replace("<version>1.1<", "<version>2.0<"), "version 2.0, not 1.1"),
        ("cvat", lambda t: t.replace("?>\n", f"?>\n{BOMB}\n"), "it has a document type"),
        ("cvat", lambda t: t.replace("</track>", "", 1), "mismatched tag"),
        ("cvat", lambda t: t.replace('<track id="0" label="walk"', '<track id="0"'), "'label'"),
        ("cvat", lambda t: t.replace("<task>", "<project><task>").replace(
            "</task>", "</task></project>"), "export of a whole project"),
        ("cvat", lambda t: t.replace("<track", "<image").replace("</track", "</image"),
         "annotations of images"),
        ("labelstudio", lambda t: t.replace(".mp4", ".jpg"), "images, sounds or texts, none of"),
        ("labelstudio", lambda t: t.replace('"ranges": [', '"ranges": [3, '), "TypeError"),
        ("via", lambda t: t.replace("3.1.1", "4.0.0"), "is of the data format 4.0.0, not 3"),
        ("via", lambda t: t.replace('"type": 4,\n   "loc"', '"type": 2,\n   "loc"'),
         "images or sounds, none of videos"),
        ("elan", lambda t: t.replace('FORMAT="3.0"', 'FORMAT="9.0"'), "is of version 9.0"),
        ("elan", lambda t: t.replace("video/mp4", "audio/x-wav"), "names no video, only sounds"),
        ("elan", lambda t: t.replace('"milliseconds"', '"PAL-frames"'), "times in PAL-frames"),
        ("kinetics", lambda t: t.replace("label,", "name,"), "has no column label"),
        ("kinetics", lambda t: t.replace(",0,3,", ",zero,3,"), "ValueError"),
        ("kinetics", lambda t: t.replace(",0\n", "\n", 1), "row 2 has another number of fields"),
        ("hacs", lambda t: t.replace(",-1", ",5"), "the label '5', neither 1 nor -1"),
        ("hacs", lambda t: t.replace("subset", "side"), "has no column subset"),
    ],
)  # fmt: skip
def test_a_file_that_is_broken_or_of_another_kind_is_one_sentence(tmp_path, name, change, message):
    file = altered(tmp_path, name, change)
    with pytest.raises(ActionrecError) as error:
        read_annotations(file)
    assert message in str(error.value) and str(file) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"label": "stra\xdfe"}', "it is no text in UTF-8"),
        (b"", "it is empty"),
        (b"PK\x03\x04rest", "it is an archive: unpack it"),
        (b"[" * 100_000, "can't be read as annotations"),
        (b"<annotations>\xff</annotations>", "not well-formed"),
        (b'{"_via_img_metadata": {}}', "is a project of VIA 2: it holds annotations of images"),
        (b'{"images": [], "categories": []}', "is a COCO file: it holds annotations of images"),
        (b"path,label\na.mp4,run\n", "is of none of the formats activitynet, cvat,"),
        (b"<html/>", "is of none of the formats"),
    ],
)
def test_a_file_that_is_none_of_the_formats_is_one_sentence(tmp_path, content, message):
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(ActionrecError, match=message):
        read_annotations(file)


def test_a_file_that_is_not_there_or_a_folder_is_one_sentence(tmp_path):
    for path, reason in ((tmp_path / "no.json", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ActionrecError, match=f"can't be read \\({reason}"):
            read_annotations(path)


def test_missing_videos_are_told_and_the_rest_is_written(footage, tmp_path, capsys):
    some = tmp_path / "some"
    some.mkdir()
    for name in YARDS[1:3]:
        shutil.copy(footage / "deeper" / name, some / name)
    output, file = tmp_path / "data.csv", FIXTURES / "via.json"
    arguments = ["data", "import", str(file), "--output", str(output), "--videos"]
    assert main([*arguments, str(some)]) == 1
    error = capsys.readouterr().err
    assert f"3 of 5 videos are not below {some} and are left out: yard1.mp4, yard4.mp4" in error
    assert {row["path"] for row in rows_of(output)} == {"some/yard2.mp4", "some/yard3.mp4"}
    output.unlink()
    (tmp_path / "none").mkdir()
    assert main([*arguments, str(tmp_path / "none")]) == 1
    assert "Nothing is left to write: 5 of 5 videos" in capsys.readouterr().err
    assert not output.exists()
    (some / "twice").mkdir()
    shutil.copy(some / "yard2.mp4", some / "twice")
    assert main([*arguments, str(some)]) == 1
    assert "have the name of one annotated video" in capsys.readouterr().err


def test_labels_and_times_that_no_row_can_have_are_changed_or_left_out_and_said(footage, tmp_path):
    def change(text):
        project = json.loads(text)
        project["attribute"]["1"]["options"] = {"1": "walk|run", "2": "  wave\n both "}
        entries = list(project["metadata"].values())
        entries[0]["z"], entries[2]["z"], entries[4]["z"] = [-1, 2], [2, 2], [3, 1]
        entries[6]["z"] = entries[7]["z"]
        entries[6]["av"] = entries[7]["av"]
        return json.dumps(project)

    file = altered(tmp_path, "via", change)
    output = tmp_path / "data.csv"
    result = import_annotations([file], output, videos=footage)
    told = " ".join(result.notes)
    assert "segments that start before their video (1)" in told
    assert "segments that end no later than they start (2)" in told
    assert "that are there twice are written once (1)" in told
    assert "'walk|run' has the character that separates labels and is written 'walk/run'" in told
    assert {row["label"] for row in rows_of(output)} == {"walk/run", "wave both"}


def test_labels_of_whole_videos_share_a_row(footage, tmp_path):
    def change(text):
        tasks = json.loads(text)
        for task in tasks:
            value = {"choices": ["indoors", "calm"]}
            task["annotations"][0]["result"] = [
                {"value": value, "from_name": "c", "to_name": "video", "type": "choices"}
            ]
        return json.dumps(tasks)

    file = altered(tmp_path, "labelstudio", change)
    output = tmp_path / "data.csv"
    result = import_annotations([file], output, videos=footage)
    assert [row["label"] for row in rows_of(output)] == ["indoors|calm"] * 5
    assert list(rows_of(output)[0]) == ["path", "label", "group"]
    assert "in one row, parted by | (5)" in " ".join(result.notes)


def test_frames_are_refused_where_the_video_has_another_number_of_them(footage, tmp_path):
    file = altered(tmp_path, "cvat", lambda text: text.replace("<size>80<", "<size>40<"))
    with pytest.raises(ActionrecError, match="has 80 frames, and 40 by its annotations"):
        import_annotations([file], tmp_path / "data.csv", videos=footage)


def test_a_track_that_comes_back_is_two_segments_and_a_step_is_kept(tmp_path):
    shape = '<box frame="{}" outside="{}" keyframe="1"/>'
    shapes = [(10, 0), (20, 0), (30, 1), (50, 0), (60, 0)]
    track = "".join(shape.format(*each) for each in shapes)
    file = tmp_path / "track.xml"
    file.write_text(
        "<annotations><version>1.1</version><meta><task><size>10</size><source>a.mp4</source>"
        "<frame_filter>step=10</frame_filter></task></meta>"
        f'<track id="0" label="walk">{track}</track></annotations>'
    )
    found = read_annotations(file).found
    assert [each.frames for each in found] == [(10, 30), (50, 70)]


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("file:///C:/My%20videos/a%20b.mp4", "a b.mp4"),
        ("..\\clips\\a.mp4", "a.mp4"),
        ("/data/local-files/?d=clips/a.mp4", "a.mp4"),
        ("s3://bucket/deep/a.mp4", "a.mp4"),
    ],
)
def test_addresses_of_all_systems_end_in_a_name(address, name):
    assert file_name(address) == name
