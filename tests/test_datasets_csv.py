"""Videos listed in a CSV file: division by column or by group, and wrong files."""

import os
from collections import Counter
from pathlib import Path

import pytest

from actionrec.datasets.csv import open_csv
from actionrec.datasets.registry import open_dataset
from actionrec.errors import ActionrecError, UsageError

SHARED = Path(
    os.environ.get("ACTIONREC_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data")
)
FIGHTS = SHARED / "fights" / "fights.csv"


def write(folder, *lines, make=True):
    """Write the lines as a CSV file and, unless told otherwise, the files that it lists."""
    for line in lines[1:] if make else ():
        path = folder / line.split(",")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    file = folder / "videos.csv"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def grouped(clips):
    return ["path,label,group"] + [
        f"{label}{group}_{clip}.mp4,{label},{group}"
        for (group, label), count in clips.items()
        for clip in range(count)
    ]


def test_split_column(tmp_path):
    file = write(
        tmp_path,
        "split, label, path",
        make=False,
    )
    (tmp_path / "sub").mkdir()
    for name in ("sub/a.mp4", "b.mp4", "c, d.mp4", "e.mp4"):
        (tmp_path / name).touch()
    file.write_bytes(
        "\ufeffsplit, label, path\r\ntrain,run,sub/a.mp4\r\n\r\ntrain,jump,b.mp4\r\n"
        'Validate,run,"c, d.mp4"\r\ntest,jump,e.mp4\r\n'.encode()
    )
    dataset = open_dataset("csv", str(file))
    assert dataset.labels == ("jump", "run")
    assert [(video.path, video.label) for video in dataset.train] == [
        (tmp_path / "sub/a.mp4", 1),
        (tmp_path / "b.mp4", 0),
    ]
    assert [(video.path, video.label) for video in dataset.val] == [(tmp_path / "c, d.mp4", 1)]
    with pytest.raises(UsageError, match="has a split column"):
        open_csv(file, "2")


def test_test_validates_where_there_is_no_val(tmp_path):
    file = write(tmp_path, "path,label,split", "a.mp4,run,train", "b.mp4,run,test")
    assert [video.path.name for video in open_csv(file).val] == ["b.mp4"]


def test_folds_keep_groups_whole_and_are_balanced(tmp_path):
    clips = {(f"g{n:02d}", label): 2 + n % 3 for n in range(25) for label in ("run", "jump")}
    lines = grouped(clips) + ["u1.mp4,run,unknown", "u2.mp4,run,"]
    file = write(tmp_path, *lines)
    total = len(lines) - 1
    validated = []
    for fold in "12345":
        dataset = open_csv(file, fold)
        assert len(dataset.train) + len(dataset.val) == total
        assert not {v.group for v in dataset.train} & {v.group for v in dataset.val}
        assert {v.path.name for v in dataset.train if v.group is None} == {"u1.mp4", "u2.mp4"}
        assert abs(len(dataset.val) - (total - 2) / 5) <= 4
        jumps = sum(video.label == 0 for video in dataset.val)
        assert abs(jumps - len(dataset.val) / 2) <= 2
        validated += [video.path.name for video in dataset.val]
    assert Counter(validated) == Counter(line.split(",")[0] for line in lines[1:-2])
    # The order of the lines makes no difference to the folds.
    shuffled = open_csv(write(tmp_path, lines[0], *reversed(lines[1:])), "3")
    assert {v.path for v in shuffled.val} == {v.path for v in open_csv(file, "3").val}


@pytest.mark.skipif(not FIGHTS.is_file(), reason="fights is not at ACTIONREC_SHARED_DATA")
def test_folds_of_real_footage():
    folds = [open_csv(FIGHTS, fold) for fold in "12345"]
    assert [len(fold.val) for fold in folds] == [39, 41, 40, 39, 39]
    for fold in folds:
        assert fold.labels == ("fight", "noFight")
        assert len(fold.train) + len(fold.val) == 226
        assert sum(video.group is None for video in fold.train) == 28
        assert 17 <= sum(video.label for video in fold.val) <= 21
        assert all(video.path.is_file() for video in fold.train + fold.val)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["path,label", "a.mp4,run"], "neither a split nor a group column"),
        (["path,lable,group", "a.mp4,run,1"], "Unknown column 'lable'; the first line must be"),
        (["path;label", "a.mp4;run"], "neither a split nor a group column"),
        (["a.mp4,run,train"], "No column path and no column label in 'a.mp4, run, train'"),
        (["path,label,spilt", "a.mp4,run,train"], "Unknown column 'spilt'"),
        (["path,label,start", "a.mp4,run,0.5"], "column 'start' but no column 'end'"),
        (["path,label,end_time", "a.mp4,run,0.5"], "Unknown column 'end_time'; the first line"),
        (["path,label,t_start,stop", "a.mp4,run,1,2"], "Unknown column 't_start', 'stop'"),
        (["path,label,start,end", "a.mp4,run,1,"], "line 2 has no end to its start"),
        (["path,label,start,end", "a.mp4,run,,2"], "line 2 has no start to its end"),
        (["path,label,start,end", "a.mp4,run,-1,2"], "line 2: the start -1 is negative"),
        (["path,label,start,end", "a.mp4,run,2,2.0"], "start 2 is the end 2.0; a segment must"),
        (["path,label,start,end", "a.mp4,run,3,2"], "the start 3 is after the end 2"),
        (["path,label,start,end", "a.mp4,run,0,1:30"], "line 2: the end '1:30' is no number"),
        (["path,label,start,end", "a.mp4,run,0,nan"], "line 2: the end 'nan' is no number"),
        (["path,label,start,end", "a.mp4,run,0,inf"], "line 2: the end 'inf' is no number"),
        (["path,label,start,end", "a.mp4,run,0,1_0"], "line 2: the end '1_0' is no number"),
        (
            ["path,label,start,end", "a.mp4,run,0,2", "a.mp4,run,0.0,2"],
            "line 3: the same segment is already in line 2",
        ),
        (
            ["path,label,split,start,end", "a.mp4,run,train,0,2", "./a.mp4,run,val,3,4"],
            "./a.mp4 is in training in line 2 and in validation in line 3",
        ),
        (
            ["path,label,split,start,end", "a.mp4,run,train,0,2", "b/../a.mp4,run,val,3,4"],
            "b/../a.mp4 is in training in line 2 and in validation in line 3",
        ),
        (
            ["path,label,group,start,end", "a.mp4,run,g,0,2", "a.mp4,run,h,3,4"],
            "a.mp4 has the group 'g' in line 2 and 'h' in line 3",
        ),
        (
            ["path,label,start,end", "0.mp4,run,0,2", "0.mp4,run,3,4"],
            "has 1 known group, too few for folds",
        ),
        (["path,label,", "a, b.mp4,run,"], "line 2 has 'run' in a column without a name"),
        (["path,label,split", 'a.mp4,"run,train', "b.mp4,run,val"], "unexpected end of data"),
        (["path,group", "a.mp4,1"], "No column label"),
        (["path,label,label", "a.mp4,1,1"], "Two columns 'label'"),
        ([""], "No column path and no column label"),
        (["path,label,split"], "lists no videos"),
        (["path,label,split", "a.mp4,run,train", "a.mp4,run,val"], "line 3: a.mp4 is already in"),
        (["path,label,split", "a.mp4,,train"], "line 2 has no label"),
        (["path,label,split", "a.mp4,run"], "line 2 has no split"),
        (["path,label,split", "a.mp4,run,train,x"], "line 2 has more fields"),
        (["path,label,split", "a.mp4,run,tarin"], "line 2: the split 'tarin' is unknown"),
        (["path,label,split", "a.mp4,run,train"], "no video with the split val"),
        (
            ["path,label,split", "a.mp4,run,train", "b.mp4,walk,val"],
            "line 3: no training video shows 'walk'",
        ),
        (
            ["path,label,group,split", "a.mp4,run,g,train", "b.mp4,run,g,val"],
            "the group 'g' is in training and in validation",
        ),
        (
            ["path,label,group", "a.mp4,run,unknown", "b.mp4,run,"],
            "has no known groups, too few for folds",
        ),
    ],
)
def test_wrong_file_is_one_clear_error(tmp_path, lines, message):
    with pytest.raises(ActionrecError, match=message):
        open_csv(write(tmp_path, *lines))


def test_fewer_than_five_groups_are_a_fold_each(tmp_path):
    file = write(tmp_path, *grouped({(f"g{n}", label): 2 for n in range(3) for label in "ab"}))
    held_out = set()
    for fold in "123":
        dataset = open_csv(file, fold)
        [group] = {video.group for video in dataset.val}
        assert group not in {video.group for video in dataset.train}
        held_out.add(group)
    assert held_out == {"g0", "g1", "g2"}
    with pytest.raises(UsageError, match="there are folds 1 to 3, and no --split 4"):
        open_csv(file, "4")


def test_label_of_one_group_only_names_the_line(tmp_path):
    clips = {(f"g{n}", "run"): 2 for n in range(5)} | {("g0", "walk"): 1}
    file = write(tmp_path, *grouped(clips))
    with pytest.raises(ActionrecError, match="no training video shows 'walk'"):
        for fold in "12345":
            open_csv(file, fold)


def test_missing_files(tmp_path, caplog):
    lines = [f"{n}.mp4,run,{'val' if n else 'train'}" for n in range(5)]
    file = write(tmp_path, "path,label,split", *lines)
    (tmp_path / "3.mp4").unlink()
    assert len(open_csv(file).val) == 4
    assert "1 of the 5 videos" in caplog.text and "3.mp4" in caplog.text
    for n in (1, 2):
        (tmp_path / f"{n}.mp4").unlink()
    with pytest.raises(ActionrecError, match="3 of the 5 videos .* first is .*1.mp4; paths are"):
        open_csv(file)


def test_no_csv_file(tmp_path):
    with pytest.raises(UsageError, match="is a folder"):
        open_csv(tmp_path)
    with pytest.raises(ActionrecError, match="can't be read as a CSV file"):
        open_csv(tmp_path / "nowhere.csv")
    (tmp_path / "latin.csv").write_bytes(b"path,label\nb\xe4r.mp4,run\n")
    with pytest.raises(ActionrecError, match="can't be read as a CSV file in UTF-8"):
        open_csv(tmp_path / "latin.csv")
    with pytest.raises(UsageError, match="no split '6'; choose 1, 2, 3, 4, 5"):
        open_dataset("csv", write(tmp_path, "path,label,group", "a.mp4,run,1"), "6")


SIDES = [("a.mp4", "run", "train"), ("sub/b.mp4", "jump, high", "train"), ("c.mp4", "run", "val")]


@pytest.mark.parametrize(
    "text",
    [
        "Path;Label;Split\r\n" + "".join(f"{';'.join(row)}\r\n" for row in SIDES),
        "\ufeffpath\tLABEL\tsplit\n" + "".join("\t".join(row) + "\n" for row in SIDES),
        "sep=;\r\npath;label;split;\r\n;;;\r\n" + "".join(f"{';'.join(row)};\n" for row in SIDES),
        ",path,label,split,,\n\n"
        + "".join(f'{n},{a},"{b}",{c},,\n' for n, (a, b, c) in enumerate(SIDES))
        + ",,,,,\n",
        "notes;path;label;split;fps\n" + "".join(f"x;{';'.join(row)};25\n" for row in SIDES),
        "path;label;split\n" + "".join(";".join(row).replace("/", "\\") + "\n" for row in SIDES),
        "path;label;split\n" + "".join(f"~/{';'.join(row)}\n" for row in SIDES),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_files_of_spreadsheets_are_read(tmp_path, monkeypatch, text, encoding):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "sub").mkdir()
    for name, *_ in SIDES:
        (tmp_path / name).touch()
    file = tmp_path / "videos.csv"
    file.write_bytes(text.removeprefix("\ufeff").encode(encoding))
    dataset = open_csv(file)
    assert dataset.labels == ("jump, high", "run")
    paths = [video.path for video in dataset.train + dataset.val]
    assert paths == [tmp_path / name for name, *_ in SIDES]


def test_columns_that_are_not_used_are_told(tmp_path, caplog):
    file = write(tmp_path, "path,label,split,width", "a.mp4,run,train,320", "b.mp4,run,val,320")
    assert open_csv(file).labels == ("run",)
    assert caplog.messages == [f"{file}: columns that are not used: width."]


def test_two_ways_to_write_a_path_or_a_label_are_one(tmp_path):
    lines = ["path,label,split", "a.mp4,caf\u00e9,train", "b.mp4,cafe\u0301,val"]
    assert open_csv(write(tmp_path, *lines)).labels == ("caf\u00e9",)
    with pytest.raises(ActionrecError, match="line 4: ./a.mp4 is already in line 2"):
        open_csv(write(tmp_path, *lines, "./a.mp4,run,val"))


def test_a_workbook_is_named_as_such(tmp_path):
    (tmp_path / "videos.csv").write_bytes(b"PK\x03\x04\0\0")
    with pytest.raises(ActionrecError, match="is a workbook, no CSV file; save it as CSV"):
        open_csv(tmp_path / "videos.csv")
