import csv

import pytest

from experiments.errors import ExperimentError
from experiments.fidelity_table import PAGE, committed, tables, with_tables


def row(name, error, low="0.5", high="2", tier="1", apart="false", why=""):
    return {
        "id": name,
        "chip": "c",
        "stack": "s",
        "tier": tier,
        "error": error,
        "ms_per_token": "1",
        "low_ms": low,
        "high_ms": high,
        "apart": apart,
        "why": why,
    }


def test_rows_are_grouped_and_those_apart_are_left_aside():
    fitted = [row("A", "0.1"), row("B", "-0.3"), row("C", "1.0", tier="3", why="no")]
    left = [row("A", "0.2"), row("B", "-0.4", high="0.9"), row("D", "9.0", apart="true")]
    lines = tables(fitted, left).splitlines()
    # Of 0.1 and 0.3: a half between, nine tenths of the way up; one of two ranges holds 1.
    assert lines[2] == "| tiers 1 and 2 | 2 | 20.0% | 28.0% | 0 | 2 | 30.0% | 38.0% | 50% | 2.90 |"
    assert lines[4] == "| tier 2 | 0 | |  | 0 | 0 | |  |  |  |"
    assert lines[5].startswith("| tier 3 | 1 | 100.0% | 100.0% | 1 |")
    assert "D (c, s) +900.0%" in lines[-1]


def test_a_page_without_marks_is_refused():
    with pytest.raises(ExperimentError, match="no lines '<!-- tables: begin -->'"):
        with_tables("# A page\n", "table\n")


def test_the_page_shows_the_committed_predictions():
    fitted, left_out = committed()
    page = PAGE.read_text(encoding="utf-8")
    assert with_tables(page, tables(fitted, left_out)) == page
    with open("experiments/measured/decode_cases.csv", newline="") as file:
        assert [r["id"] for r in csv.DictReader(file)] == [r["id"] for r in fitted]
