"""`actionrec evaluate`: tables, JSON and files."""

import json
from dataclasses import asdict

import pytest
import torch

from actionrec.cli.main import main
from actionrec.evaluation.accuracy import evaluation_of
from actionrec.evaluation.logits import ClipLogits


def test_a_file_for_logits_of_another_format_is_wrong_usage(capsys):
    arguments = ["evaluate", "--model", "x", "--dataset", "demo", "--save-logits", "x.npz"]
    assert main(arguments) == 2
    assert "--save-logits x.npz must end in .safetensors" in capsys.readouterr().err


@pytest.fixture
def folder_flags(small_recognizer, tmp_path, encode):
    """The flags that evaluate a small model on two videos in folders."""
    small_recognizer.save(tmp_path / "model.safetensors")
    for side, label in (("train", "a"), ("val", "a"), ("train", "b"), ("val", "b")):
        (tmp_path / "videos" / side / label).mkdir(parents=True)
        encode(tmp_path / "videos" / side / label / "one.avi", frames=20)
    return [
        *("evaluate", "--model", str(tmp_path / "model.safetensors"), "--dataset", "folder"),
        *("--root", str(tmp_path / "videos"), "--clips", "2", "--workers", "0"),
    ]


def test_the_command_saves_the_logits_of_what_it_prints(folder_flags, tmp_path, capsys):
    file = tmp_path / "new" / "logits.safetensors"
    assert main([*folder_flags, "--save-logits", str(file), "--format", "json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert asdict(evaluation_of(ClipLogits.load(file))) == printed
    assert ClipLogits.load(file).videos == ("val/a/one.avi", "val/b/one.avi")
    assert printed["protocol"]["model"] == str(tmp_path / "model.safetensors")


def test_the_table_shows_the_intervals(folder_flags, capsys):
    assert main(folder_flags) == 0
    [clip] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("clip-l")]
    assert "100.00% to 100.00%" in clip


def test_figures_are_printed_even_if_a_file_cannot_be_written(folder_flags, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main([*folder_flags, "--save-logits", str(tmp_path / "file" / "x.safetensors")]) == 1
    output = capsys.readouterr()
    assert "clip-level" in output.out and "could not be written" in output.err


def test_test_videos_alone_are_enough(small_recognizer, tmp_path, encode, capsys):
    small_recognizer.save(tmp_path / "model.safetensors")
    (tmp_path / "test" / "b").mkdir(parents=True)
    encode(tmp_path / "test" / "b" / "one.avi", frames=20)
    lists = {"plain.csv": "path,label\n{},b", "split.csv": "path;label;split\n{};b;test"}
    for name, content in lists.items():
        (tmp_path / name).write_text(content.format("test/b/one.avi"))
    common = ["evaluate", "--model", str(tmp_path / "model.safetensors"), "--clips", "1"]
    common += ["--workers", "0", "--format", "json"]
    for dataset, root in (("folder", ""), ("csv", "plain.csv"), ("csv", "split.csv")):
        assert main([*common, "--dataset", dataset, "--root", str(tmp_path / root)]) == 0
        assert json.loads(capsys.readouterr().out)["video"]["n"] == 1
        assert main(["data", "list", dataset, "--root", str(tmp_path / root)]) == 1
        assert "train" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["model.safetensors", "link.safetensors", "mine.safetensors"])
def test_logits_replace_no_file(folder_flags, tmp_path, capsys, name):
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "model.safetensors")
    (tmp_path / "mine.safetensors").write_text("mine")
    before = (tmp_path / name).read_bytes()
    assert main([*folder_flags, "--save-logits", str(tmp_path / name)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / name).read_bytes() == before


def test_a_check_of_the_data_changes_no_protocol(folder_flags, tmp_path, capsys):
    (tmp_path / "videos" / "val" / "a" / "bad.avi").write_bytes(b"no video")
    results = []
    for _ in range(2):
        assert main([*folder_flags, "--format", "json"]) == 1
        results.append(json.loads(capsys.readouterr().out))
        main(["data", "check", "folder", "--root", str(tmp_path / "videos"), "--workers", "1"])
        capsys.readouterr()
    assert results[0] == results[1] and results[0]["protocol"]["videos"] == 3


@pytest.mark.slow
def test_json_has_the_documented_keys(command, small_recognizer, tmp_path, encode):
    small_recognizer.save(tmp_path / "model.safetensors")
    for side in ("train", "val"):
        (tmp_path / side / "a").mkdir(parents=True)
        encode(tmp_path / side / "a" / "one.avi", frames=20)
    (tmp_path / "val" / "a" / "two.avi").write_bytes(b"no video")
    run = command(
        *("evaluate", "--model", tmp_path / "model.safetensors", "--dataset", "folder"),
        *("--root", tmp_path, "--clips", 2, "--format", "json"),
    )
    assert run.returncode == 1, run.stderr
    result = json.loads(run.stdout)
    assert set(result) == {"clip", "video", "per_class", "protocol", "skipped"}
    figures = {"top1", "top5", "n", "top1_interval", "top5_interval"}
    assert set(result["clip"]) == set(result["video"]) == figures
    low, high = result["clip"]["top1_interval"]
    assert 0 <= low <= result["clip"]["top1"] <= high <= 1
    assert result["video"]["n"] == 1 and result["clip"]["n"] == 2
    assert [set(item) for item in result["skipped"]] == [{"video", "error"}]
    assert torch.tensor(result["clip"]["top1"]).item() in (0.0, 0.5, 1.0)
