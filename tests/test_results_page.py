"""scripts/results_page.py: the page is what the CSV files say, and says what they show."""

import csv
import re
from importlib import import_module
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
if not (PROJECT / "scripts").exists():
    pytest.skip("not run from a checkout", allow_module_level=True)
results_page = import_module("results_page")

COLUMNS = (
    "date,data,division,split,seed,block,recipe,epoch,clips,crops,videos,"
    "clip_top1,clip_top5,video_top1,video_top5,device,torch,python"
).split(",")


def run(block, seed, clip, video, data="films"):
    values = ("2026-01-02", data, "fold by group", 1, seed, block, "i3d", "last", 3, 1, 10)
    return dict(zip(COLUMNS, (*values, clip, 100, video, 100, "a GPU", "2.0", "3"), strict=True))


def written(folder, runs):
    """The page and the picture of made-up runs."""
    with (folder / "table7_runs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(runs)
    (folder / "blocks.csv").write_text("device\n")
    return results_page.page(folder)


def test_the_page_in_the_repository_is_made_of_the_results_in_it():
    page, picture = results_page.page(PROJECT / "results")
    hint = "run python scripts/results_page.py"
    assert (PROJECT / "docs" / "results.md").read_text(encoding="utf-8") == page, hint
    drawn = PROJECT / "docs" / "images" / "blocks_on_real_videos.svg"
    assert drawn.read_text(encoding="utf-8") == picture, hint


@pytest.mark.parametrize("data", ["weizmann", "fights"])
def test_the_readme_quotes_the_page(data):
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    page = (PROJECT / "docs" / "results.md").read_text(encoding="utf-8")
    quoted = re.search(rf"^\| {data}.*$", readme, re.MULTILINE | re.IGNORECASE)[0]
    none, snl = re.findall(r"(\d+\.\d) % (?:clip|with)", quoted)
    runs = re.search(r"(\d+) runs each", quoted)[1]
    section = page.partition(f"### {data}")[2]
    cells = re.search(r"^\| snl .*$", section, re.MULTILINE)[0].strip("| ").split(" | ")
    measured = f"{float(cells[3]):.1f}", f"{float(cells[2].split()[0]):.1f}", cells[1]
    assert (none, snl, runs) == measured


def test_differences_are_paired_and_a_run_without_its_base_is_left_out_of_them(tmp_path):
    base = [run("none", seed, clip, 90) for seed, clip in enumerate((80, 82, 84))]
    snl = [run("snl", seed, clip, 90) for seed, clip in enumerate((85, 86, 90, 10))]
    page, picture = written(tmp_path, base + snl)
    # 5, 4 and 6 points; Student's t of two degrees of freedom is 4.303.
    assert (
        "| snl | 4 | 67.75 ± 38.56 | 82.00 | +5.00 ± 1.00 | +2.52 to +7.48 "
        "| 90.00 ± 0.00 | 90.00 | +0.00 ± 0.00 |"
    ) in page
    # The interval for two comparisons is that of 97.5 %, t 6.205: +1.42 to +8.58.
    assert (
        "Of 2 comparisons, the intervals that do not contain 0 are those of snl at the clip level "
        "(+5.00); after Bonferroni's correction this holds for snl at the clip level." in page
    )
    assert picture.count("<circle") == 2 and "films: snl, clip" in picture


def test_what_is_not_told_apart_is_said_so(tmp_path):
    base = [run("none", seed, 80, 90) for seed in range(3)]
    nl = [run("nl", seed, clip, 91) for seed, clip in enumerate((79, 82, 79))]
    few = [run(block, seed, 1, 1, "two") for block in ("none", "nl") for seed in range(2)]
    page, _ = written(tmp_path, base + nl[:3] + few)
    assert "There are too few runs to tell blocks apart: 3 pairs are needed." in page
    assert "nl at the video level (+1.00)" in page and "nl at the clip level" not in page


def test_runs_without_a_block_alone_are_compared_with_nothing(tmp_path):
    page, _ = written(tmp_path, [run("none", seed, 80, 90) for seed in range(2)])
    assert "| none | 2 | 80.00" in page and "too few runs" not in page


def test_a_run_that_was_repeated_counts_once_and_devices_are_kept_apart(tmp_path):
    again = run("none", 0, 60, 60) | {"date": "2026-02-01"}
    other = run("none", 0, 50, 50) | {"device": "another GPU"}
    page, _ = written(tmp_path, [run("none", 0, 80, 90), again, other])
    assert "| none | 1 | 60.00 | - | - | - | 60.00 |" in page
    assert "### films, fold by group, another GPU" in page


def test_a_folder_without_results_or_columns_leaves_the_page_as_it_is(tmp_path, capsys):
    output = tmp_path / "page.md"
    output.write_text("the page")
    nothing, others = tmp_path / "nothing", tmp_path / "others"
    others.mkdir()
    (others / "table7_runs.csv").write_text("data,seed\nfilms,0\n")
    for folder, told in ((nothing, "holds no CSV files"), (others, "lacks 'division'")):
        assert results_page.main(["--results", str(folder), "--output", str(output)]) == 1
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1
        assert output.read_text() == "the page"


def test_a_damaged_file_is_one_sentence(tmp_path, capsys):
    (tmp_path / "table7_runs.csv").write_bytes(b"\xff\xfe\x00broken")
    output = tmp_path / "page.md"
    assert results_page.main(["--results", str(tmp_path), "--output", str(output)]) == 1
    error = capsys.readouterr().err
    assert "table7_runs.csv can't be read" in error and error.count("\n") == 1
    assert not output.exists()
