"""Fitting published cases, on a few of them. Half a minute."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from experiments.cases import Case
from experiments.fit import clocked, free, solve, with_values
from experiments.left_out import Fold, Prediction, coverage, ends, log_error, range_share
from experiments.question import Question

CASES = Path("experiments/measured/decode_cases.csv")


def few(tmp_path, names):
    with CASES.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["id"] in names]
    with (tmp_path / "cases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return clocked(str(tmp_path / "cases.csv"))


def test_few_cases_move_the_numbers_that_they_have_and_no_others(tmp_path):
    rows = few(tmp_path, ("D001", "D006", "D009"))
    at = np.log([float(one.number.value) for one in free()])
    for row in rows:
        # The clock in JAX is the exact one, and says which numbers a case has.
        log_seconds, slopes = row.measurement.predicted(at)
        exact = row.seconds(with_values(np.exp(at)))
        assert log_seconds == pytest.approx(math.log(exact), abs=1e-9)
        moved = {one.name for one, slope in zip(free(), slopes, strict=True) if slope}
        assert moved == {"nvidia kernel"}
    found = {one.name: one for one in solve(rows)}
    assert found["amd kernel"].number.value == pytest.approx(found["amd kernel"].prior)
    kernel = found["nvidia kernel"]
    assert abs(math.log(kernel.number.value / kernel.prior)) > 0.1
    errors = [
        math.log(row.seconds(list(found.values())) / row.placed.case.measured_s) for row in rows
    ]
    assert np.abs(errors).max() < 0.05


def predictions(offs, stack="s", tier=1, faster=0.0):
    def one(number, off):
        row = {"stack": stack, "ms_per_token": "1000"}
        question = Question(model="m", chip="c", stack=stack)
        case = Case(
            id=str(number), question=question, metric="itl", input_tokens=None, output_tokens=None,
            measured_s=1.0, tier=tier, row=row,
        )  # fmt: skip
        fold = Fold(name=f"{stack} {number}", cases=(str(number),))
        return Prediction(case=case, fold=fold, seconds=math.exp(off), faster=faster, slower=faster)

    return [one(number, off) for number, off in enumerate(offs)]


def test_a_left_out_range_is_made_without_its_fold():
    table = predictions([0.1, -0.1, 0.1, -0.1, 0.1, 5.0])
    low, high = ends(table, table[-1])  # the others are all off by a tenth
    assert (math.log(low), math.log(high)) == pytest.approx((4.9, 5.1))
    low, high = ends(table, table[0])
    assert math.log(high) - 0.1 != pytest.approx(0.1)  # the last is one of the others
    with_numbers = predictions([0.3] * 6, faster=0.4)  # by what numbers do it may be off more
    low, high = ends(with_numbers, with_numbers[0])
    assert (math.log(low), math.log(high)) == pytest.approx((0.0, 0.6))  # others needed so much


def test_of_ranges_that_are_too_wide_a_share_is_kept():
    wide = predictions([0.1] * 4 + [-0.2] * 5 + [0.3], faster=0.4)
    assert range_share(wide) == pytest.approx(0.2 / 0.4)  # holds nine, and less would hold four
    low, high = ends(wide, wide[-1])  # four and five others: eight of ten are the same
    assert (math.log(low), math.log(high)) == pytest.approx((0.3 - 0.2, 0.3 + 0.2))
    assert range_share(predictions([5.0] * 10, faster=0.4)) == 1.0  # never wider than either
    noisy = [*predictions([0.1] * 4, faster=0.4), *predictions([0.3] * 2, tier=3, faster=0.4)]
    assert range_share(noisy) == pytest.approx(0.1 / 0.4)  # those of tier 3 count for one case
    assert range_share([]) == 1.0


def test_few_cases_are_judged_with_those_of_all_stacks():
    table = [*predictions([0.2] * 10, "many"), *predictions([0.0, 0.0], "few")]
    assert log_error(table, "few") == pytest.approx(0.2)
    assert log_error(table, "many") == pytest.approx(0.2)
    assert log_error(table, "none") == pytest.approx(0.2)
    noisy = [*predictions([0.1] * 6), *predictions([9.0] * 6, tier=3)]
    assert log_error(noisy, "s") == pytest.approx(0.1)


def test_coverage():
    rows = [
        {"low_ms": "0.5", "high_ms": "2", "ms_per_token": at} for at in ("0.4", "0.6", "1", "2")
    ]
    assert coverage(rows) == (0.75, 4.0)
