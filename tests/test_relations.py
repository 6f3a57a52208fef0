"""scripts/relations.py: the tasks are what they claim to be, and every run is done once."""

import csv
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from torch import nn

from actionrec.explanation.receptive_fields import CentreTracker

SCRIPT = Path(__file__).parents[1] / "scripts" / "relations.py"
if not SCRIPT.exists():
    pytest.skip("not run from a checkout", allow_module_level=True)


@pytest.fixture(scope="module")
def relations():
    """The script as a module."""
    spec = spec_from_file_location("relations", SCRIPT)
    module = sys.modules["relations"] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def drawn(relations, task, number=400):
    return relations.TASKS[task](number, torch.Generator().manual_seed(3))


def test_no_position_sees_both_objects_or_both_events(relations):
    frames, rows, columns = relations.receptive_field()
    assert (frames, rows, columns) == (4, 4, 4)
    clips, _ = drawn(relations, "motion")
    for clip in clips:
        seen = clip.ne(0).any(0).any(0).nonzero().flatten()
        left, right = seen[seen < relations.WIDTH / 2], seen[seen > relations.WIDTH / 2]
        assert right.min() - left.max() >= columns
    clips, _ = drawn(relations, "events")
    for clip in clips:
        seen = clip.ne(0).any(1).any(1).nonzero().flatten()
        early, late = seen[seen < relations.FRAMES / 2], seen[seen > relations.FRAMES / 2]
        assert late.min() - early.max() >= frames


def test_the_positions_of_the_network_are_a_cell_of_the_clip_apart(relations):
    network = relations.small_network("none").eval()
    clips = torch.rand(1, 1, relations.FRAMES, relations.HEIGHT, relations.WIDTH)
    with torch.no_grad(), CentreTracker(clips) as tracker:
        centres = tracker.grids[network.feature_map(clips)]
    assert [axis.stride for axis in centres] == [4, 4, 4]


@pytest.mark.parametrize("task", ["motion", "events"])
def test_a_single_object_or_event_tells_nothing_of_the_class(relations, task):
    clips, classes = drawn(relations, task)
    assert 0.4 < classes.float().mean() < 0.6
    if task == "motion":
        # Whether the left object is further down at the end than at the start.
        half = clips[..., : relations.WIDTH // 2]
        rows = (half * torch.arange(relations.HEIGHT)[:, None]).sum((2, 3)) / half.sum((2, 3))
        single = rows[:, -1] > rows[:, 0]
    else:
        single = clips[:, : relations.FRAMES // 2].sum((1, 2, 3)) > 0
    assert abs(single[classes == 0].float().mean() - single[classes == 1].float().mean()) < 0.15


def logits_of_all_pairs(relations, block):
    """Logits of the events (flash, flash), (shadow, shadow), (flash, shadow), (shadow, flash) at
    the same places."""
    torch.manual_seed(0)
    network = relations.small_network(block).double().eval()
    if block != "none":
        nn.init.ones_(network.blocks["conv2"].units[0].norm.weight)
    early, late = torch.zeros(2, 1, relations.FRAMES, relations.HEIGHT, relations.WIDTH)
    early[0, 0:3, 4:8, 4:8] = late[0, 13:16, 8:11, 15:19] = 1.0
    clips = torch.stack([early + late, -early - late, early - late, late - early])
    with torch.no_grad():
        return network(clips.double())


def test_without_a_block_the_logits_of_two_events_are_a_sum_and_with_one_they_are_not(relations):
    """No such sum can be higher for both equal pairs than for both unequal ones."""
    a, b, c, d = logits_of_all_pairs(relations, "none")
    assert not torch.allclose(a, b, rtol=1e-3)
    assert torch.allclose(a + b, c + d, rtol=1e-9)
    a, b, c, d = logits_of_all_pairs(relations, "nl")
    assert not torch.allclose(a + b, c + d, rtol=1e-3)


def run(output, *words):
    command = [sys.executable, SCRIPT, "--output", output, *words]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True)


SMALL = "--tasks motion --seeds 0 1 --steps 2 --jobs 1 --blocks none nl snl".split()


def test_every_run_is_one_line_and_is_done_once(tmp_path):
    output = tmp_path / "relations.csv"
    first = run(output, *SMALL, "--rate-factors", 1)
    assert first.returncode == 0, first.stderr
    rows = list(csv.DictReader(output.open()))
    kinds = [(row["block"], row["init"], row["seed"]) for row in rows]
    assert sorted(kinds) == sorted(
        (block, init, seed)
        for block, init in (("none", "ours"), ("nl", "ours"), ("nl", "small"), ("snl", "ours"))
        for seed in "01"
    )
    for row in rows:
        assert row["steps"] == "2" and 0 <= float(row["accuracy"]) <= 100
        assert (row["term"] == "") == (row["block"] == "none")
    before = output.read_bytes()
    again = run(output, *SMALL, "--rate-factors", 1)
    assert "8 of 8 runs are done already" in again.stderr
    assert output.read_bytes() == before
    assert again.stdout == first.stdout and "| snl | x1 | ours | 2 | 2 |" in again.stdout


def test_a_file_of_something_else_is_left_alone(tmp_path):
    output = tmp_path / "notes.csv"
    output.write_text("day,what\n1,precious\n")
    refused = run(output, *SMALL)
    assert refused.returncode == 2
    assert "has lines that this script did not write" in refused.stderr.splitlines()[-1]
    assert output.read_text() == "day,what\n1,precious\n"


def test_the_small_initialisation_is_that_of_phi_and_psi_alone(relations):
    torch.manual_seed(0)
    ours, small = (
        relations.small_network("dnl", init).blocks["conv2"] for init in ("ours", "small")
    )
    phi_and_psi = sum(small.widths[:2])
    assert small.projection.weight[:phi_and_psi].std().item() == pytest.approx(0.01, rel=0.2)
    for block in (ours, small):
        assert block.projection.weight[phi_and_psi:].std() > 0.1


def test_the_tables_of_the_page_are_those_of_the_measured_runs(relations):
    page = (SCRIPT.parents[1] / "docs" / "blocks.md").read_text(encoding="utf-8")
    assert relations.table(relations.read_rows(relations.RESULTS)) in page
