"""Predictions beside published figures: errors may not grow unnoticed. About a minute."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.cases import read_cases
from experiments.errors import ExperimentError
from experiments.validate import summary, validate

CASES = Path("experiments/measured/decode_cases.csv")
SRAM = ("groq-lpu-v1", "wse-3")


@pytest.fixture(scope="module")
def rows():
    return validate(CASES)


def test_the_errors_are_those_that_are_committed(rows):
    off = np.abs([float(row["error"]) for row in rows if row["tier"] in "12"])
    assert len(off) == 89
    assert np.median(off) <= 0.025
    assert np.quantile(off, 0.9) <= 0.12


def test_every_row_of_tiers_1_and_2_is_done(rows):
    assert [row["why"] for row in rows if row["tier"] in "12" and row["why"]] == []
    for row in rows:
        assert bool(row["why"]) == (row["predicted_ms"] == "")
        if row["why"]:
            assert row["error"] == "1.0"


def test_machines_that_run_from_sram_are_within_a_fifth(rows):
    for row in rows:
        if row["chip"] in SRAM:
            assert abs(float(row["error"])) < 0.2, row["id"]


def test_the_summary_counts_what_was_fitted(rows):
    lines = list(summary(rows))
    assert any(line.startswith("tiers 1 and 2") and "89" in line for line in lines)
    assert "32 numbers were fitted" in lines[-1]


def write(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_a_row_that_cannot_be_done_says_why(tmp_path):
    with CASES.open(newline="") as file:
        first = next(csv.DictReader(file))
    wrong = [
        first | {"id": "A", "model": "llama-2-7bb"},
        first | {"id": "B", "stack": "gpt-slow"},
        first | {"id": "C", "metric": "speed"},
        first | {"id": "D", "chips": "3", "tensor": "3"},
        first | {"id": "E", "model": "llama-3.1-405b"},
    ]
    write(tmp_path / "cases.csv", wrong)
    done = {row["id"]: row for row in validate(tmp_path / "cases.csv")}
    for name, why in {
        "A": "did you mean",
        "B": "there is no stack 'gpt-slow'",
        "C": "metric 'speed' is none of",
        "D": "not divisible",
        "E": "bytes over",
    }.items():
        assert why in done[name]["why"]
        assert done[name]["error"] == "1.0"


def test_nothing_measured_is_looked_up(tmp_path):
    with CASES.open(newline="") as file:
        first = next(csv.DictReader(file))
    write(tmp_path / "cases.csv", [first, first | {"id": "Z", "ms_per_token": "1000"}])
    one, other = validate(tmp_path / "cases.csv")
    assert one["predicted_ms"] == other["predicted_ms"]


def test_a_file_that_is_no_case_file_is_refused(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ExperimentError, match="no column 'id'"):
        read_cases(tmp_path / "x.csv")
    done = subprocess.run(
        [sys.executable, "-m", "experiments.validate", "--cases=none.csv", "--out=o.csv"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "none.csv: cannot be read" in done.stderr
    assert "Traceback" not in done.stderr
