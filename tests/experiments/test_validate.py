"""Predictions beside published figures: errors may not grow unnoticed. About a minute."""

import csv
from pathlib import Path

import numpy as np
import pytest

import emu
from experiments.cases import FIELDS, place, read_cases
from experiments.errors import ExperimentError
from experiments.left_out import coverage
from experiments.validate import summary, validate
from tests.experiments.commands import run_command

CASES = Path("experiments/measured/decode_cases.csv")
LEFT_OUT = Path("docs/left_out.csv")
SRAM = ("groq-lpu-v1", "wse-3")


@pytest.fixture(scope="module")
def rows():
    return validate(CASES)


def test_the_errors_are_those_that_are_committed(rows):
    off = np.abs([float(row["error"]) for row in rows if row["tier"] in "12"])
    assert len(off) == 89
    assert np.median(off) <= 0.025
    assert np.quantile(off, 0.9) <= 0.12


@pytest.fixture(scope="module")
def left_out():
    """Made by experiments.fit, which takes too long to run here."""
    with LEFT_OUT.open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["apart"] == "false"]


def test_errors_of_left_out_cases_are_those_that_are_committed(left_out):
    off = np.abs([float(row["error"]) for row in left_out if row["tier"] in "12"])
    assert len(off) == 88
    assert np.median(off) <= 0.06
    assert np.quantile(off, 0.9) <= 0.20


def test_ranges_hold_eight_of_ten_left_out_cases(left_out):
    for tiers in ("12", "123"):
        inside, width = coverage([row for row in left_out if row["tier"] in tiers])
        assert 0.7 <= inside <= 0.9
        assert width < 2.0


def test_left_out_cases_are_of_the_numbers_that_are_committed(rows, left_out):
    fitted = {row["id"]: row for row in rows}
    for row in left_out:
        assert row["ms_per_token"] == fitted[row["id"]]["ms_per_token"]
    done = {row["id"] for row in rows if not row["why"]}
    with LEFT_OUT.open(newline="") as file:
        assert {row["id"] for row in csv.DictReader(file)} == done


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


def test_a_group_without_rows_is_not_summed_up():
    rows = [{"error": "-0.1", "tier": "3", "chip": "h100", "stack": "ideal", "why": ""}]
    heads = [line[:42].strip() for line in summary(rows)]
    assert heads[1:-1] == ["all", "tier 3", "h100 ideal"]


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
        first | {"id": "F"},
        first | {"id": "G", "ms_per_token": "fast"},
        first | {"id": "H", "batch": "1.5"},
        first | {"id": "I", "context": "8200"},
        first | {"id": "J", "input_tokens": "9000"},
        first | {"id": "", "context": "", "output_tokens": ""},
        first | {"id": "D", "note": "the same id again, in capitals", "model": "Llama-2-7B"},
    ]
    wrong = [{"note": ""} | row for row in wrong]
    write(tmp_path / "cases.csv", wrong)
    text = (tmp_path / "cases.csv").read_text()
    lines = [line + (",more" if ",F," in line else "") for line in text.splitlines()]
    (tmp_path / "cases.csv").write_text("\n".join(lines))
    *rows, again = validate(tmp_path / "cases.csv")
    assert again["note"] == "the same id again, in capitals"
    assert again["why"] == ""
    assert float(again["predicted_ms"]) > 0
    done = {row["id"]: row for row in rows}
    for name, why in {
        "A": "did you mean",
        "B": "there is no stack 'gpt-slow'",
        "C": "metric 'speed' is none of",
        "D": "not divisible",
        "E": "bytes over",
        "F": "more cells than the file has columns",
        "G": "could not convert",
        "H": "batch is a whole number",
        "I": "a context for llama-2-7b has at most 4,088 tokens, and 8,200 are more than 2 times",
        "J": "a prompt for llama-2-7b has at most 4,096 tokens, and 9,000 are more than 2 times",
        "": "no context",
    }.items():
        assert why in done[name]["why"]
        assert done[name]["error"] == "1.0"


def test_prefills_of_others_do_not_shrink_with_tokens_per_step(tmp_path):
    """Whoever decodes N tokens waits for one prefill of each other sequence of its replica."""
    with CASES.open(newline="") as file:
        loaded = next(row for row in csv.DictReader(file) if row["id"] == "D061")  # a batch of 4
    some = [
        loaded,
        loaded | {"tokens_per_step": "2"},
        loaded | {"metric": "latency/n"},
        loaded | {"chips": "2", "data": "2"},
    ]
    write(tmp_path / "cases.csv", some)
    for case, prefills in zip(read_cases(tmp_path / "cases.csv"), (3, 3, 4, 1), strict=True):
        step, *chunks = place(case).terms
        assert step.times == 1 / case.question.tokens_per_step
        prompts = sum(chunk.times for chunk in chunks) * 911
        # 7244 tokens are three chunks of 2048 and a rest.
        assert prompts == pytest.approx(4 * prefills)


def test_of_more_sequences_than_fit_some_wait(tmp_path):
    with CASES.open(newline="") as file:
        first = next(csv.DictReader(file))  # Llama-2-7B on one A100: 2 GB of cache a sequence
    some = {"model": "Llama-2-7B", "context": "4000", "input_tokens": "8000", "metric": "loaded"}
    many = [first | some | {"batch": str(n)} for n in (32, 60)]
    write(tmp_path / "cases.csv", [*many, many[1] | {"metric": "latency/n"}])
    fits, waits, whole = read_cases(tmp_path / "cases.csv")
    assert place(waits).seconds() == pytest.approx(place(fits).seconds(), rel=0.15)
    assert place(waits).terms[0].placement.excess_bytes == {}
    assert fits.input_tokens == 4096  # the model takes no longer prompt
    with pytest.raises(emu.CapacityError, match="bytes over"):
        place(whole)


def test_of_replicas_with_unequal_shares_the_fullest_counts(tmp_path):
    with CASES.open(newline="") as file:
        loaded = next(row for row in csv.DictReader(file) if row["id"] == "D061")  # a batch of 4
    split = {"chips": "2", "data": "2"}
    write(tmp_path / "cases.csv", [loaded | split | {"batch": n} for n in ("3", "4")])
    three, four = read_cases(tmp_path / "cases.csv")
    assert three.question == four.question


def test_what_a_row_may_leave_out_and_how_models_may_be_written(tmp_path):
    with CASES.open(newline="") as file:
        first = next(csv.DictReader(file))
    other = {"model": "Llama-2-7B (as published) ", "context": "", "tokens_per_step": ""}
    write(tmp_path / "cases.csv", [first, first | other, first | {"model": "Llama-2-7B / 13B"}])
    one, *others = read_cases(tmp_path / "cases.csv")
    assert [case.question for case in others] == [one.question] * 2


def test_nothing_measured_is_looked_up(tmp_path):
    with CASES.open(newline="") as file:
        first = next(csv.DictReader(file))
    write(tmp_path / "cases.csv", [first, first | {"id": "Z", "ms_per_token": "1000"}])
    one, other = validate(tmp_path / "cases.csv")
    assert one["predicted_ms"] == other["predicted_ms"]


def test_a_file_that_is_no_case_file_is_refused(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    (tmp_path / "none.csv").write_text("")
    for name in ("x.csv", "none.csv"):
        with pytest.raises(ExperimentError, match="no column 'id'"):
            read_cases(tmp_path / name)
    (tmp_path / "header.csv").write_text(",".join(FIELDS) + "\n")
    with pytest.raises(ExperimentError, match="no rows"):
        read_cases(tmp_path / "header.csv")
    done = run_command("experiments.validate", "--cases=none.csv", "--out=o.csv")
    assert done.returncode != 0
    assert "none.csv: cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_where_the_table_goes_is_checked_before_anything_is_predicted(tmp_path):
    done = run_command("experiments.validate", f"--out={tmp_path}")
    assert done.returncode == 1
    assert done.stderr == f"error: {tmp_path}: Is a directory\n"
