"""Kinetics by its official lists: names of files and folders, missing clips, wrong lists."""

import csv
import os
import random
from pathlib import Path

import pytest

from actionrec.datasets.kinetics import open_kinetics
from actionrec.datasets.registry import open_dataset
from actionrec.errors import ActionrecError, UsageError

SHARED = Path(
    os.environ.get("ACTIONREC_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data")
)
LABELS_400 = SHARED / "kinetics400_labels.txt"

HEADER = "label,youtube_id,time_start,time_end,split,is_cc"
# From the list of Kinetics-400, with identifiers that begin with - and _.
TRAIN = [
    "zumba,-3B32lodo2M,59,69,train,0",
    '"massaging person\'s head",_dbcJuKJQNs,40,50,train,0',
    '"shooting goal (soccer)",Lwti_IVm-Bc,2145,2155,train,0',
]
VAL = ["zumba,0wR5jVB-WPk,417,427,val,0"]
TRAIN_FILES = [
    "-3B32lodo2M_000059_000069.mp4",
    "_dbcJuKJQNs_000040_000050.mp4",
    "Lwti_IVm-Bc_002145_002155.mp4",
]
VAL_FILES = ["0wR5jVB-WPk_000417_000427.mp4"]


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def write_lists(root, train=TRAIN, val=VAL, header=HEADER, names=("train.csv", "val.csv")):
    for name, lines in zip(names, (train, val), strict=True):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")


@pytest.fixture
def root(tmp_path):
    write_lists(tmp_path / "annotations")
    touch(tmp_path / "train", *TRAIN_FILES)
    touch(tmp_path / "val", *VAL_FILES)
    return tmp_path


def names(videos):
    return [video.path.name for video in videos]


def test_clips_are_found_by_identifier_and_six_digit_seconds(root, caplog):
    dataset = open_dataset("kinetics", str(root))
    assert dataset.labels == ("massaging person's head", "shooting goal (soccer)", "zumba")
    assert names(dataset.train) == TRAIN_FILES and names(dataset.val) == VAL_FILES
    assert [video.label for video in dataset.train] == [2, 0, 1]
    assert [video.group for video in dataset.train] == ["-3B32lodo2M", "_dbcJuKJQNs", "Lwti_IVm-Bc"]
    assert all(video.path.is_file() for video in dataset.train + dataset.val)
    assert dataset.flip and not caplog.records


@pytest.mark.skipif(
    not LABELS_400.is_file(), reason="the Kinetics-400 labels are not at ACTIONREC_SHARED_DATA"
)
def test_sorted_labels_of_kinetics_400_are_in_the_order_of_the_logits(tmp_path):
    labels = LABELS_400.read_text(encoding="utf-8").splitlines()
    with (tmp_path / "train.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER.split(","))
        for number, label in enumerate(random.Random(0).sample(labels, len(labels))):
            writer.writerow([label, f"clip{number:07d}", 0, 10, "train", 0])
    (tmp_path / "val.csv").write_text(f"{HEADER}\n{VAL[0]}\n", encoding="utf-8")
    touch(tmp_path, "train/clip0000000_000000_000010.mp4", f"val/{VAL_FILES[0]}")
    assert list(open_kinetics(tmp_path).labels) == labels


@pytest.mark.parametrize("folder", ["massaging person's head", "massaging_person's_head", "head"])
def test_class_folders_of_any_name(root, folder):
    (root / "train" / folder).mkdir()
    (root / "train" / TRAIN_FILES[1]).rename(root / "train" / folder / TRAIN_FILES[1])
    assert names(open_kinetics(root).train) == TRAIN_FILES


def test_linked_class_folders_and_other_containers(root, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (root / "train" / TRAIN_FILES[0]).rename(other / TRAIN_FILES[0].replace(".mp4", ".webm"))
    (root / "train" / "zumba").symlink_to(other)
    assert len(open_kinetics(root).train) == 3


@pytest.mark.parametrize(
    "lists",
    [
        ("train.csv", "val.csv"),
        ("annotations/train.csv", "annotations/validate.csv"),
        ("annotations/kinetics_train.csv", "annotations/kinetics_val.csv"),
        ("kinetics-400_train.csv", "kinetics-400_val.csv"),
        ("annotations/deepmind/k700/train.csv", "annotations/deepmind/k700/validate.csv"),
    ],
)
@pytest.mark.parametrize(
    "folders", [("train", "val"), ("train", "validate"), ("videos/train", "videos/val")]
)
def test_layouts_that_people_have(tmp_path, lists, folders):
    write_lists(tmp_path, names=lists)
    # The test list has no labels and is not read; AVA's lists are no lists of Kinetics.
    touch(tmp_path, "annotations/test.csv", "annotations/AVA-Kinetics/ava_train_v2.2.csv")
    touch(tmp_path / folders[0], *TRAIN_FILES)
    touch(tmp_path / folders[1], *VAL_FILES)
    dataset = open_kinetics(tmp_path)
    assert (len(dataset.train), len(dataset.val)) == (3, 1)


def test_columns_are_read_by_name(root):
    rows = [row.split(",") for row in ("zumba,-3B32lodo2M,59,69", "zumba,_dbcJuKJQNs,40,50")]
    write_lists(
        root / "annotations",
        [f"{start},{end},{name},{label}" for label, name, start, end in rows],
        ["417,427,0wR5jVB-WPk,zumba"],
        "time_start,time_end,youtube_id,label",
    )
    assert len(open_kinetics(root).train) == 2


def test_replacements_of_corrupted_clips_take_their_place(root):
    replacement = f"replacement/replacement_for_corrupted_k400/{TRAIN_FILES[0]}"
    touch(root, replacement, "replacement/replacement_for_corrupted_k400/unknown_000000_000010.mp4")
    paths = [video.path for video in open_kinetics(root).train]
    assert paths == [root / replacement, *(root / "train" / name for name in TRAIN_FILES[1:])]


def test_missing_clips_are_one_warning_with_their_count(root, caplog):
    (root / "train" / TRAIN_FILES[0]).unlink()
    dataset = open_kinetics(root)
    assert len(dataset.labels) == 3 and len(dataset.train) == 2
    assert len(caplog.records) == 1
    assert "2 of the 3 training and 1 of the 1 validation clips" in caplog.text
    assert "1 classes have none (zumba)" in caplog.text and "half" not in caplog.text


def test_half_or_more_missing_is_said_and_goes_on(root, caplog):
    for name in TRAIN_FILES[1:]:
        (root / "train" / name).unlink()
    assert len(open_kinetics(root).train) == 1
    assert len(caplog.records) == 1 and "half or more are missing" in caplog.text


@pytest.mark.parametrize(("side", "word"), [("train", "train"), ("val", "validate")])
def test_nothing_to_train_or_to_validate_on(root, side, word):
    for file in (root / side).iterdir():
        file.unlink()
    with pytest.raises(ActionrecError, match=f"{root} holds no videos to {word} on"):
        open_dataset("kinetics", root)


def test_files_without_a_line_are_left_out_with_a_warning(root, caplog):
    # Of another time of a listed video, which may show another action.
    touch(root, "train/-3B32lodo2M_000060_000070.mp4", "train/.hidden_000000_000010.mp4")
    assert names(open_kinetics(root).train) == TRAIN_FILES
    assert "left out: 1, the first is" in caplog.text and "M_000060" in caplog.text


def test_clip_with_two_labels_or_on_both_sides_is_warned_of(root, caplog):
    write_lists(
        root / "annotations",
        [*TRAIN, TRAIN[0].replace("zumba", '"shooting goal (soccer)"'), VAL[0]],
    )
    dataset = open_kinetics(root)
    assert dataset.labels[dataset.train[0].label] == "zumba"
    assert "gives 1 clips two labels, the first is -3B32lodo2M_000059_000069" in caplog.text
    assert "1 clips of " in caplog.text and "validation figures too good" in caplog.text


@pytest.mark.parametrize(
    ("header", "train", "message"),
    [
        ("youtube_id,time_start,time_end,split", ["a,0,10,train"], "has no column label"),
        ("train/a.mp4 0", ["train/b.mp4 1"], "has no column label; give a list with"),
        (HEADER, [], "train.csv lists no clips"),
        (HEADER, ["zumba,a,0,ten,train,0"], "train.csv, line 2 is not a label, .*'ten'"),
        (HEADER, [TRAIN[0], "zumba,a"], "train.csv, line 3 is not a label"),
        (HEADER, [",a,0,10,train,0"], "train.csv, line 2 .*the label is empty"),
        (HEADER, TRAIN[1:], "val.csv has clips of 'zumba', which no clip in .*train.csv shows"),
    ],
)
def test_wrong_list_is_one_clear_error(root, header, train, message):
    write_lists(root / "annotations")
    (root / "annotations/train.csv").write_text("\n".join([header, *train]), encoding="utf-8")
    with pytest.raises(ActionrecError, match=message):
        open_kinetics(root)


def test_list_that_is_no_text(root):
    (root / "annotations/train.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ActionrecError, match="can't be read as a CSV file in UTF-8"):
        open_kinetics(root)


def test_two_lists_for_one_side(root):
    touch(root, "annotations/k600_train.csv")
    with pytest.raises(ActionrecError, match="k600_train.csv and train.csv in .*; keep one"):
        open_kinetics(root)


def test_same_clip_in_two_folders(root):
    touch(root, f"train/zumba/{TRAIN_FILES[0]}")
    with pytest.raises(ActionrecError, match="is there twice"):
        open_kinetics(root)


def test_missing_lists_folders_and_split(root):
    with pytest.raises(UsageError, match="only one split"):
        open_dataset("kinetics", root, "2")
    with pytest.raises(ActionrecError, match="is not a folder"):
        open_dataset("kinetics", root / "nowhere")
    (root / "val").rename(root / "hidden")
    with pytest.raises(ActionrecError, match="has no folder val or validate or validation"):
        open_kinetics(root)
    (root / "annotations/val.csv").unlink()
    with pytest.raises(ActionrecError, match=r"train.csv and val.csv\) are not in .*github.com"):
        open_kinetics(root)
