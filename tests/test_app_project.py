"""A project keeps every label: through kills, hands in its table, two pages, and undo."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from actionrec.app.project import Conflict, Edit, Example, Project, Table, read_examples
from actionrec.errors import ActionrecError

WALK = Example("videos/a.mp4", "walk", "a")
RUN = Example("videos/b.mp4", "run", "b")
PART = Example("videos/a.mp4", "jump", "a", 1.0, 2.5)


@pytest.fixture
def project(tmp_path):
    with Project.opened(tmp_path / "mine", "m") as project:
        for name in ("a.mp4", "b.mp4", "c.mp4"):
            (project.folder / "videos" / name).write_bytes(b"x")
        yield project


def test_the_table_is_the_csv_file_that_train_reads(project):
    from actionrec.datasets.csv import open_csv

    project.edit(Edit("add", added=(WALK, RUN, PART)))
    text = (project.folder / "data.csv").read_text()
    assert text.splitlines() == [
        "path,label,group,start,end",
        "videos/a.mp4,walk,a,,",
        "videos/b.mp4,run,b,,",
        "videos/a.mp4,jump,a,1.0,2.5",
    ]
    more = [Example(f"videos/c{n}.mp4", label, f"c{n}") for n, label in enumerate(("run", "jump"))]
    project.edit(Edit("add", added=(*more, Example("videos/c.mp4", "walk", "c"))))
    for name in ("c0.mp4", "c1.mp4"):
        (project.folder / "videos" / name).write_bytes(b"x")
    dataset = open_csv(project.folder / "data.csv")
    assert dataset.labels == ("jump", "run", "walk")
    assert len(dataset.train) + len(dataset.val) == 6
    project.undo()
    assert project.unlabelled() == ["videos/c.mp4", "videos/c0.mp4", "videos/c1.mp4"]


def test_an_edit_of_what_somebody_else_changed_is_refused_and_changes_nothing(project):
    project.edit(Edit("add", added=(WALK,)))
    other = Example(WALK.path, "run", "a")
    project.edit(Edit("one page", (WALK,), (other,)))
    before = (project.folder / "data.csv").read_bytes()
    with pytest.raises(Conflict, match="is now 'run' of group 'a'"):
        project.edit(Edit("another page", (WALK,), (Example(WALK.path, "jump", "a"),)))
    with pytest.raises(Conflict, match="is there already, as 'run'"):
        project.edit(Edit("another page", added=(WALK,)))
    with pytest.raises(Conflict, match="is gone"):
        project.edit(Edit("another page", (RUN,)))
    assert (project.folder / "data.csv").read_bytes() == before


def test_undo_takes_one_edit_after_the_other_back_and_keeps_later_classes(project):
    project.edit(Edit("class", classes=((), ("walk",))))
    project.edit(Edit("add", added=(WALK, RUN)))
    project.edit(Edit("drop", (RUN,), dropped=((), (RUN.path,))))
    assert project.undoable() == "drop" and project.unlabelled() == ["videos/c.mp4"]
    project.undo()
    assert project.table() == Table((WALK, RUN), ("walk",), ())
    project.undo()
    assert project.table().examples == () and project.undoable() == "class"
    project.edit(Edit("class", classes=(("walk",), ("walk", "run"))))
    project.undo()
    project.undo()
    assert project.table() == Table() and project.undo() is None


def test_undo_of_what_was_changed_by_hand_since_is_refused(project):
    project.edit(Edit("add", added=(WALK,)))
    table = project.folder / "data.csv"
    table.write_text(table.read_text().replace("walk", "hop"))
    with pytest.raises(Conflict, match="is now 'hop'"):
        project.undo()
    assert project.table().examples[0].label == "hop"


def test_a_reopened_project_has_its_table_classes_and_undo(tmp_path):
    with Project.opened(tmp_path, "m") as project:
        (project.folder / "videos" / "a.mp4").write_bytes(b"x")
        project.edit(Edit("class", classes=((), ("walk", "sit"))))
        project.edit(Edit("add", added=(WALK,)))
    with (tmp_path / "history.jsonl").open("a") as history:
        history.write('{"words": "torn by a power c')
    with Project.opened(tmp_path, "m") as project:
        assert project.table() == Table((WALK,), ("walk", "sit"))
        assert project.undoable() == "add"
        project.edit(Edit("more", added=(PART,)))
    with Project.opened(tmp_path, "m") as project:
        assert project.undoable() == "more"
        project.undo()
        project.undo()
        assert project.table().examples == ()


def test_no_label_that_was_answered_is_lost_to_kills(tmp_path):
    """Each process adds examples and says so when it is done with one; then it is killed."""
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from actionrec.app.project import *\n"
        "with Project.opened(Path(sys.argv[1]), 'm') as project:\n"
        "    for n in range(1000):\n"
        "        example = Example(f'videos/{sys.argv[2]}-{n}.mp4', 'walk', 'g')\n"
        "        project.edit(Edit('add', added=(example,)))\n"
        "        print(example.path, flush=True)\n"
    )
    told = set()
    for number in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), str(number)],
            stdout=subprocess.PIPE,
            text=True,
        )
        told.add(process.stdout.readline().strip())
        time.sleep(0.05 * number)
        os.kill(process.pid, signal.SIGKILL)
        told |= {line.strip() for line in process.stdout if line.endswith("\n")}
        process.wait()
    kept = {example.path for example in read_examples(tmp_path / "data.csv")}
    assert len(told) >= 3 and told <= kept


def test_two_pages_cannot_have_one_project(project):
    with (
        pytest.raises(ActionrecError, match="Another page has the project"),
        Project.opened(project.folder, "m"),
    ):
        pass


def test_a_project_that_nothing_was_put_into_leaves_nothing(tmp_path):
    with Project.opened(tmp_path / "mine", "m"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("description", "sentence"),
    [
        ({"version": 2, "model": "m", "classes": [], "dropped": []}, "a project of version 2"),
        ({"version": 1, "model": "x3d_s", "classes": [], "dropped": []}, "made with --model x3d_s"),
        ({"version": 1}, "is damaged"),
        ([], "is damaged"),
    ],
)
def test_a_project_of_another_version_or_model_is_left_alone(tmp_path, description, sentence):
    (tmp_path / "project.json").write_text(json.dumps(description))
    with pytest.raises(ActionrecError, match=sentence), Project.opened(tmp_path, "m"):
        pass
    assert json.loads((tmp_path / "project.json").read_text()) == description


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("words")
    with (
        pytest.raises(ActionrecError, match="holds thesis.txt and no project"),
        Project.opened(tmp_path, "m"),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("path,label\nvideos/a.mp4,walk\n", "has the columns path, label"),
        ("path,label,group,start,end\nvideos/a.mp4,,a,,\n", "line 2: A class needs a name"),
        ("path,label,group,start,end\n../a.mp4,walk,a,,\n", "no path below"),
        ("path,label,group,start,end\n/etc/a.mp4,walk,a,,\n", "no path below"),
        ("path,label,group,start,end\nvideos/a.mp4,walk,a,2,1\n", "start must be before end"),
        ("path,label,group,start,end\nvideos/a.mp4,walk,a,-1,1\n", "neither negative"),
        ("path,label,group,start,end\nvideos/a.mp4,walk,a,1,\n", "only one of start and end"),
        ("path,label,group,start,end\nvideos/a.mp4,walk,a,nan,1\n", "no number of seconds"),
        ("path,label,group,start,end\nvideos/a.mp4,a|b,a,,\n", "parts several labels"),
        ("path,label,group,start,end\n" + "videos/a.mp4,walk,a,,\n" * 2, "line 3: .* twice"),
        (
            "path,label,group,start,end\nvideos/a.mp4,walk,a,,\nvideos/a.mp4,run,b,1,2\n",
            "all parts of a video are of one group",
        ),
        (b"\xff\xfe\x00", "UTF-8"),
    ],
)
def test_a_table_that_a_hand_broke_is_a_sentence_and_stays_as_it_is(project, text, sentence):
    project.edit(Edit("add", added=(WALK,)))
    table = project.folder / "data.csv"
    data = text if isinstance(text, bytes) else text.encode()
    table.write_bytes(data)
    for _ in range(2):
        with pytest.raises(ActionrecError, match=sentence):
            project.table()
    with pytest.raises(ActionrecError, match=sentence):
        project.edit(Edit("add", added=(RUN,)))
    assert table.read_bytes() == data


@pytest.mark.parametrize(
    "data",
    [
        "path,label,group,start,end\r\nvideos/a.mp4,walk,a,1.0,2.5\r\n".encode("utf-8-sig"),
        "path;label;group;start;end\r\nvideos/a.mp4;walk;a;1,0;2,5\r\n".encode("utf-8-sig"),
        "sep=;\r\nPath;Label;Group;Start;End;\r\nvideos/a.mp4; walk ;a;1,0;2,5;\r\n;;;;;\r\n",
        "path\tlabel\tgroup\tstart\tend\nvideos/a.mp4\twalk\ta\t1,0\t2,5\n".encode("utf-16"),
    ],
)
def test_a_table_is_read_as_spreadsheets_write_it(project, data):
    from actionrec.datasets.csv import csv_records

    table = project.folder / "data.csv"
    table.write_bytes(data if isinstance(data, bytes) else data.encode())
    [example] = project.table().examples
    assert example == Example("videos/a.mp4", "walk", "a", 1.0, 2.5)
    # The next edit writes it as `train` and others read it.
    project.edit(Edit("relabel", (example,), (Example(*example.part[:1], "run", "a", 1.0, 2.5),)))
    assert csv_records(table)[1] == (2, ["videos/a.mp4", "run", "a", "1.0", "2.5"])


def test_an_edit_that_a_kill_kept_out_of_the_history_does_not_block_undo(project):
    project.edit(Edit("first", added=(RUN,)))
    project.edit(Edit("second", added=(WALK,)))
    table = project.folder / "data.csv"
    table.write_text(table.read_text().replace("walk", "hop"))
    with pytest.raises(Conflict, match="'second' can't be undone any more"):
        project.undo()
    assert project.undoable() == "first"
    project.undo()
    assert [example.label for example in project.table().examples] == ["hop"]


def test_labels_stay_where_the_description_of_the_project_cannot_be_written(project, monkeypatch):
    project.edit(Edit("add", added=(WALK, RUN)))

    def full(table):
        raise ActionrecError("project.json could not be written (No space left on device).")

    monkeypatch.setattr(project, "_write_description", full)
    with pytest.raises(ActionrecError, match="No space left"):
        project.edit(Edit("drop", (WALK,), dropped=((), (WALK.path,))))
    assert (
        set(read_examples(project.folder / "data.csv"))
        == {WALK, RUN}
        == set(project.table().examples)
    )
    assert project.undoable() == "add"


def test_names_are_one_in_all_their_encodings_and_those_of_every_script_are_taken():
    from actionrec.app.project import folded, require_name

    assert require_name(" e\u0301crire\u00a0 vite\n", "class") == "\u00e9crire vite"
    for name in ("走る", "يركض", "می\u200cدود", "👨\u200d👩\u200d👧 hop", "a#?%'\"&<b>"):
        assert require_name(name, "class") == name
    for name in ("a|b", "left\u202eright", "nul\0"):
        with pytest.raises(ActionrecError, match="invisible"):
            require_name(name, "class")
    assert folded("WALK") == folded("walk") != folded("walks")


def test_stray_bytes_in_a_name_and_a_lost_folder_stop_nothing(project):
    (project.folder / "videos" / os.fsdecode(b"caf\xe9.mp4")).write_bytes(b"x")
    assert project.videos() == ["videos/a.mp4", "videos/b.mp4", "videos/c.mp4"]
    shutil.rmtree(project.folder / "videos")
    assert project.videos() == [] and project.unlabelled() == []


def test_each_fold_holds_out_whole_groups_once_or_a_sentence_says_why_not():
    from actionrec.app.fine_tuning import divisions

    def example(label, group, number=0):
        return Example(f"videos/{label}{group}{number}.mp4", label, group)

    examples = [example(label, group) for label in "ab" for group in "123456"]
    held_out = []
    for fold in divisions(examples):
        sides = dict(zip(examples, fold, strict=True))
        groups = {each.group for each, side in sides.items() if side == "val"}
        assert {sides[x] for x in examples if x.group in groups} == {"val"}
        held_out += groups
    assert sorted(held_out) == list("123456")
    # Without group 3 nothing would be left to learn c from.
    alone = [*examples, example("c", "3")]
    assert "val" not in {fold[-1] for fold in divisions(alone)}
    with pytest.raises(ActionrecError, match="two classes"):
        divisions(examples[:5])
    with pytest.raises(ActionrecError, match="All examples are of one group"):
        divisions([example("a", "1"), example("b", "1")])
    with pytest.raises(ActionrecError, match="has too few groups"):
        divisions([example("a", "1"), example("b", "2")])
