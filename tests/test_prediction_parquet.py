"""Parquet: the file holds what its lines hold."""

import json
import os

import pytest

from actionrec.prediction import parquet
from actionrec.prediction.journal import Settings


def test_a_parquet_file_holds_every_value_of_its_lines(tmp_path):
    pyarrow_parquet = pytest.importorskip("pyarrow.parquet")
    rows = [
        {
            "video": f"{number}.avi",
            "model": "model",
            "top": [{"label": "ä", "score": 0.75}, {"label": "b", "score": 0.25}],
            "clips": [
                {"start": number / 8, "end": number + 0.5, "top": [{"label": "b", "score": 0.5}]}
            ]
            * (number % 3 + 1),
        }
        for number in range(4500)
    ]
    rows[3] = {"video": os.fsdecode(b"\xff.avi"), "error": "it is empty."}
    (tmp_path / "lines").write_text("".join(json.dumps(row) + "\n" for row in rows))
    parquet.write(tmp_path / "lines", tmp_path / "new.parquet", Settings("model"), len(rows))
    written = pyarrow_parquet.ParquetFile(tmp_path / "new.parquet")
    assert written.num_row_groups == 3
    for row, read in zip(rows, written.read().to_pylist(), strict=True):
        if "error" in row:
            nothing = dict.fromkeys(written.schema_arrow.names[2:])
            assert read == {"video": "\\udcff.avi", "error": "it is empty."} | nothing
            continue
        assert read["video"] == row["video"] and read["error"] is None
        assert read["model"] == "model"
        assert (read["labels"], read["scores"]) == (["ä", "b"], [0.75, 0.25])
        assert read["clips"] == [
            {"start": clip["start"], "end": clip["end"], "labels": ["b"], "scores": [0.5]}
            for clip in row["clips"]
        ]
