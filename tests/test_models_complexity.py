"""Parameters and multiply-adds: those of the paper's Table 7, counted without computing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from actionrec.errors import UsageError
from actionrec.models.classifier import BlockConfig, ClassifierConfig, build_network
from actionrec.models.complexity import measure, parts_table, trained_parts
from actionrec.models.registry import BLOCKS

LABELS = tuple(map(str, range(400)))


def test_the_base_row_of_table_7():
    result = measure(ClassifierConfig(LABELS, "r3d50"), "16x112x112")
    assert result.params == 47_018_576
    assert round(result.macs / 1e9, 2) == 10.07
    assert result.block == {"params": 0, "macs": 0, "conv_macs": 0}


@pytest.mark.parametrize(
    ("name", "params", "conv_macs"),
    [
        ("nl", 2_099_200, 0.206),
        # The paper runs W twice for NS, which gives its 0.257; (A Z - Z) W is the same in one.
        ("ns", 2_099_200, 0.206),
        ("a2", 2_099_200, 0.206),
        ("cgnl", 2_099_200, 0.206),
        ("snl", 2_623_488, 0.257),
    ],
)
def test_the_added_figures_of_table_7(name, params, conv_macs):
    result = measure(ClassifierConfig(LABELS, "r3d50", BlockConfig(name)), "16x112x112")
    assert result.block["params"] == params
    assert round(result.block["conv_macs"] / 1e9, 3) == conv_macs
    [block] = result.blocks
    assert (block.unit, block.channels, block.positions) == ("layer3_5", 1024, 98)
    assert result.params == 47_018_576 + params


def test_products_with_the_affinity_are_counted_in_the_form_that_is_taken():
    # At N = 98 and Cs = 512, SNL forms M and takes A z: two products of N^2 Cs.
    dense = measure(ClassifierConfig(LABELS, "r3d50", BlockConfig("snl")), "16x112x112")
    assert dense.block["macs"] - dense.block["conv_macs"] == 2 * 98**2 * 512
    # At N = 6272 and Cs = 128 it goes without M: four products of N Cs^2.
    linear = measure(ClassifierConfig(LABELS, "r3d50", BlockConfig("snl", (2,))), "16x112x112")
    products = linear.block["macs"] - linear.block["conv_macs"]
    assert products == pytest.approx(4 * 6272 * 128**2, rel=0.02)


# Stage 4 goes through the N x N matrix, the others take fused attention.
@pytest.mark.parametrize(
    ("stage", "positions", "reduced"), [(4, 98, 512), (3, 784, 256), (2, 6272, 128)]
)
@pytest.mark.parametrize(("name", "unary"), [("nl", 0), ("ns", 0), ("dnl", 1)])
def test_fused_attention_is_counted_like_the_matrix(name, unary, stage, positions, reduced):
    config = ClassifierConfig(LABELS, "r3d50", BlockConfig(name, (stage,)))
    block = measure(config, "16x112x112").block
    # DNL has a row more, which all positions share.
    products = 2 * positions**2 * reduced + unary * positions * reduced
    assert block["macs"] - block["conv_macs"] == products


def test_every_pass_is_counted():
    one, two = (
        measure(ClassifierConfig(LABELS, "r3d50", BlockConfig("cc", passes=passes)), "16x112x112")
        for passes in (1, 2)
    )
    assert two.block["macs"] == 2 * one.block["macs"] and two.params == one.params


@pytest.mark.parametrize("name", tuple(BLOCKS))
def test_every_block_is_counted(name):
    result = measure(ClassifierConfig(LABELS, "c3d_small", BlockConfig(name)), "8x32x32")
    assert result.block["params"] > 0
    assert result.block["macs"] >= result.block["conv_macs"] > 0


def test_i3d_costs_what_is_published():
    assert round(measure(ClassifierConfig(LABELS, "i3d"), "16x124x124").macs / 1e9, 2) == 8.77


@pytest.mark.parametrize("clip", ["16x112", "16,112,112", "ax1x1", "0x0x0"])
def test_an_impossible_clip_is_wrong_usage(clip):
    with pytest.raises(UsageError, match=f"{clip} is"):
        measure(ClassifierConfig(LABELS, "r3d50"), clip)


@pytest.mark.parametrize("backbone", ["i3d", "r3d50", "i3d_r50", "c3d_small"])
def test_every_number_of_a_network_is_in_one_part(backbone):
    network = build_network(ClassifierConfig(("a", "b"), backbone, BlockConfig("snl", (3, 4))))
    network.freeze_before("stage4")
    parts = trained_parts(network)
    values = list(network.parameters())
    assert sum(part.parameters for part in parts) == sum(value.numel() for value in values)
    assert sum(part.trained for part in parts) == sum(
        value.numel() for value in values if value.requires_grad
    )
    short = [part.name.partition(":")[0] for part in parts]
    third, fourth = (f"block before {network.stages[stage][-1]}" for stage in (3, 4))
    stages = ["stage 2", "stage 3", third, "stage 4", fourth, "stage 5", "head"]
    assert short == ["stem", *(name for name in stages if name != "stage 5" or 5 in network.stages)]
    by_name = dict(zip(short, parts, strict=True))
    for name in ("stem", "stage 2", "stage 3"):
        assert by_name[name].training() == by_name[name].normalisation(False) == "frozen"
    for name in (third, "stage 4", fourth):
        assert by_name[name].training() == "trained"
        assert by_name[name].normalisation(False) == "updated"
    # Those of the blocks are new, and have no statistics to keep.
    assert by_name["stage 4"].normalisation(True) == "frozen"
    assert by_name[fourth].normalisation(True) == "updated"
    assert by_name["head"].normalisation(True) == "-"


def test_a_block_with_a_group_norm_has_no_batch_norm():
    network = build_network(ClassifierConfig(("a",), "c3d_small", BlockConfig("cgnl")))
    [block] = [part for part in trained_parts(network) if part.name == "block before conv4"]
    assert block.normalisation(True) == block.normalisation(False) == "-"


def test_the_parts_stand_in_aligned_columns():
    network = build_network(ClassifierConfig(("a", "b"), "c3d_small", BlockConfig("snl")))
    network.freeze_before("block")
    assert parts_table(trained_parts(network), freeze_batchnorm=False) == (
        "part                parameters  training        batch norm\n"
        "stem: conv1              3,632  frozen          frozen\n"
        "stage 2: conv2          13,888  frozen          frozen\n"
        "stage 3: conv3          55,424  frozen          frozen\n"
        "stage 4: conv4         166,080  frozen          frozen\n"
        "block before conv4      10,368  trained         updated\n"
        "head                       194  trained         -\n"
        "all                    249,586  10,562 trained"
    )


@pytest.mark.slow
def test_json_has_the_documented_keys_as_integers(command):
    run = command("info", "--backbone", "r3d50", "--block", "snl", "--format", "json")
    result = json.loads(run.stdout)
    assert {"params", "macs", "block", "clip", "classes"} <= set(result)
    for value in (result["params"], result["macs"], result["classes"], *result["block"].values()):
        assert isinstance(value, int)


@pytest.mark.slow
def test_the_script_prints_our_figures_beside_the_papers():
    script = Path(__file__).parents[1] / "scripts" / "table7_complexity.py"
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    rows = {line.split()[0]: line.split()[1:5] for line in run.stdout.splitlines()[2:8]}
    assert rows["I3D"] == ["47.0186", "47.02", "10.069", "10.10"]
    assert rows["NS"] == ["+2.0992", "+2.10", "+0.206", "+0.26"]
    assert rows["SNL"] == ["+2.6235", "+2.62", "+0.257", "+0.26"]
