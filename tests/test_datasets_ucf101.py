"""The naming rule of UCF-101 against the official lists, and what is said of a damaged folder."""

import os
import shutil
from pathlib import Path

import pytest

from actionrec.datasets.registry import open_dataset
from actionrec.datasets.ucf101 import LABELS, open_ucf101
from actionrec.errors import ActionrecError, UsageError

SHARED = Path(
    os.environ.get("ACTIONREC_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data")
)
LISTS = SHARED / "ucf101"
needs_lists = pytest.mark.skipif(
    not LISTS.is_dir(), reason="the official lists of UCF-101 are not at ACTIONREC_SHARED_DATA"
)


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def names(videos):
    return {f"{video.path.parent.name}/{video.path.name}" for video in videos}


def listed(file):
    return {line.split()[0] for line in (LISTS / file).read_text().splitlines() if line.strip()}


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """All 13,320 names, as empty files: the data set looks at names only."""
    root = tmp_path_factory.mktemp("ucf101")
    for label in LABELS:
        (root / label).mkdir()
    touch(root, *listed("trainlist01.txt"), *listed("testlist01.txt"))
    return root


@needs_lists
def test_labels_are_those_of_the_official_list():
    lines = (LISTS / "classInd.txt").read_text().splitlines()
    assert [line.split()[1] for line in lines if line.strip()] == list(LABELS)


@needs_lists
@pytest.mark.parametrize(
    ("split", "train", "val"), [("1", 9537, 3783), ("2", 9586, 3734), ("3", 9624, 3696)]
)
def test_rule_gives_the_official_splits(everything, split, train, val, caplog):
    dataset = open_ucf101(everything, split)
    assert (len(dataset.train), len(dataset.val)) == (train, val)
    assert names(dataset.train) == listed(f"trainlist0{split}.txt")
    assert names(dataset.val) == listed(f"testlist0{split}.txt")
    by_name = {video.path.name: video.label + 1 for video in dataset.train}
    for line in (LISTS / f"trainlist0{split}.txt").read_text().splitlines():
        name, number = line.split()
        assert by_name[name.rpartition("/")[2]] == int(number)
    assert not {v.group for v in dataset.train} & {v.group for v in dataset.val}
    assert not caplog.records


@needs_lists
def test_paper_split_holds_out_part_of_the_training_list(everything):
    dataset = open_ucf101(everything, "paper")
    assert (len(dataset.train), len(dataset.val)) == (7912, 1625)
    assert names(dataset.train) | names(dataset.val) == listed("trainlist01.txt")
    assert {video.group[-3:] for video in dataset.val} == {"g08", "g09", "g10"}


@needs_lists
@pytest.mark.parametrize("place", [".", "ucfTrainTestlist"])
@pytest.mark.parametrize("split", ["1", "2", "3", "paper"])
def test_official_lists_beside_the_videos_agree(everything, tmp_path, place, split):
    (tmp_path / "UCF-101").symlink_to(everything)
    shutil.copytree(LISTS, tmp_path / place, dirs_exist_ok=True)
    assert len(open_ucf101(tmp_path, split).train) > 7000
    # The lists are found beside the folder of the videos, too.
    if place == "ucfTrainTestlist":
        (tmp_path / place / "classInd.txt").write_text("1 Archery\n")
        with pytest.raises(ActionrecError, match="classInd.txt, line 1"):
            open_ucf101(tmp_path / "UCF-101", split)


@pytest.fixture
def small(tmp_path):
    """Six videos with list files that agree, CRLF as published."""
    touch(tmp_path, *(f"Archery/v_Archery_g{group:02d}_c01.avi" for group in (1, 2, 8, 15, 25)))
    touch(tmp_path, "HandstandPushups/v_HandStandPushups_g09_c01.avi")
    (tmp_path / "trainlist01.txt").write_bytes(
        b"Archery/v_Archery_g08_c01.avi 3\r\nArchery/v_Archery_g15_c01.avi 3\r\n"
        b"Archery/v_Archery_g25_c01.avi 3\r\n"
        b"HandstandPushups/v_HandStandPushups_g09_c01.avi 37\r\n"
    )
    (tmp_path / "testlist01.txt").write_bytes(
        b"Archery/v_Archery_g01_c01.avi\r\nArchery/v_Archery_g02_c01.avi\r\n"
        b"Archery/v_Archery_g03_c01.avi\r\n"
    )
    return tmp_path


def test_subset_is_kept_with_a_warning(small, caplog):
    dataset = open_dataset("ucf101", str(small))
    assert [video.path.name for video in dataset.val] == [
        "v_Archery_g01_c01.avi",
        "v_Archery_g02_c01.avi",
    ]
    assert [(video.label, video.group) for video in dataset.train] == [
        (2, "Archery_g08"),
        (2, "Archery_g15"),
        (2, "Archery_g25"),
        (36, "HandstandPushups_g09"),
    ]
    assert dataset.labels[36] == "HandstandPushups" and len(dataset.labels) == 101
    assert "6 of the 13320 videos" in caplog.text and "99 classes have none" in caplog.text


def test_flat_folder(tmp_path):
    touch(tmp_path, "v_HandStandPushups_g01_c01.avi", "v_YoYo_g08_c02.avi", "._v_YoYo_g08_c02.avi")
    dataset = open_ucf101(tmp_path)
    assert [(video.label, video.path.name) for video in dataset.train + dataset.val] == [
        (100, "v_YoYo_g08_c02.avi"),
        (36, "v_HandStandPushups_g01_c01.avi"),
    ]


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("trainlist01.txt", "Archery/v_Archery_g07_c01.avi 3", "belongs to the other list"),
        ("testlist01.txt", "Archery/v_Archery_g08_c01.avi", "belongs to the other list"),
        ("trainlist01.txt", "Archery/v_Archery_g08_c02.avi 4", "is of class 3"),
        ("trainlist01.txt", "YoYo/v_Archery_g08_c02.avi 3", "is no video of UCF-101"),
        ("trainlist01.txt", "Archery/archery.avi 3", "is no video of UCF-101"),
    ],
)
def test_list_that_disagrees_is_an_error_with_its_line(small, file, line, message):
    with (small / file).open("a") as opened:
        opened.write(line + "\n")
    number = len((small / file).read_text().splitlines())
    with pytest.raises(ActionrecError, match=f"{file}, line {number}: .*{message}"):
        open_ucf101(small)


def test_video_in_neither_list(small):
    touch(small, "Archery/v_Archery_g04_c01.avi")
    with pytest.raises(ActionrecError, match="v_Archery_g04_c01.avi is in neither trainlist01"):
        open_ucf101(small)
    assert len(open_ucf101(small, "2").val) == 2  # The lists of other splits don't matter.


@pytest.mark.parametrize(
    ("text", "message"),
    [("1 ApplyLipstick\n", "line 1"), ("1 ApplyEyeMakeup\n", "has 1 classes")],
)
def test_class_list_that_disagrees(small, text, message):
    (small / "classInd.txt").write_text(text)
    with pytest.raises(ActionrecError, match=message):
        open_ucf101(small)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "No UCF-101 videos"),
        (["Archery/holiday.avi"], "No UCF-101 videos"),
        (["v_Archery_g01_c01.avi"], "to train on in split 1"),
        (["v_Archery_g09_c01.avi"], "to validate on in split 1"),
        (["v_Archery_g01_c01.avi", "Archery/v_Archery_g01_c01.avi"], "there twice"),
        (["Archery/v_YoYo_g01_c01.avi"], "another class's folder"),
        (["Juggling/v_Juggling_g01_c01.avi"], "of no class of UCF-101"),
    ],
)
def test_wrong_folder_is_one_clear_error(tmp_path, files, message):
    touch(tmp_path, *files)
    with pytest.raises(ActionrecError, match=message):
        open_dataset("ucf101", tmp_path)


def test_other_videos_are_left_out_with_a_warning(small, caplog):
    touch(small, "Archery/holiday.avi")
    assert len(open_ucf101(small).train) == 4
    assert "left out: 1" in caplog.text and "holiday.avi" in caplog.text


def test_missing_folder_and_split(tmp_path):
    with pytest.raises(ActionrecError, match="is not a folder"):
        open_dataset("ucf101", tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no split '4'; choose 1, 2, 3, paper"):
        open_dataset("ucf101", tmp_path, "4")
