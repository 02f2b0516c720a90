import dataclasses

import pytest

from experiments import cliff_errors, cliff_report
from tests.experiments.test_summaries import SWEEP

HOST = {
    "per_step_s": 1e-5,
    "per_kernel_s": 3e-6,
    "memories": [
        {
            "name": "llc",
            "capacity_bytes": 20e6,
            "gone_bytes": 40e6,
            "bandwidth_bytes_per_s": 1e11,
            "read_bytes": [1e5, 1e6, 1e7],
            "bytes_per_s": [1e10, 5e10, 1e11],
        },
        {
            "name": "dram",
            "capacity_bytes": 1e12,
            "gone_bytes": None,
            "bandwidth_bytes_per_s": 2e10,
            "read_bytes": [],
            "bytes_per_s": [],
        },
    ],
}
# Off chip 10 % too long; on chip 5 % too short, but for the largest, which is 20 % too long.
PREDICTED = [
    dataclasses.replace(
        p,
        host=HOST,
        predicted_s=p.seconds
        * (1.1 if p.placement == "off-chip" else 1.2 if p.layers == 16 else 0.95),
    )
    for p in SWEEP
]


def test_the_error_is_predicted_over_measured_less_one():
    found = cliff_errors.errors(PREDICTED, placement="on-chip")
    assert found is not None
    assert found.signed == pytest.approx((-0.05,) * 4 + (0.2,))
    assert found.median == pytest.approx(0.05)
    assert found.worst == pytest.approx(0.2)
    everything = cliff_errors.errors(PREDICTED)
    assert everything is not None
    assert everything.median == pytest.approx(0.1)
    assert cliff_errors.errors(PREDICTED, dtype="int8") is None
    assert cliff_errors.errors(SWEEP) is None


def test_disturbed_rows_are_left_out_unless_all_are():
    marked = [dataclasses.replace(p, is_disturbed=p.placement == "off-chip") for p in PREDICTED]
    found = cliff_errors.errors(marked)
    assert found is not None
    assert len(found.signed) == 5
    every = cliff_errors.errors(marked, placement="off-chip")
    assert every is not None
    assert every.signed == pytest.approx((0.1,) * 5)


def test_the_report_says_how_far_off_the_predictions_are():
    answer = cliff_report.answer(PREDICTED)
    assert "off by 10% at the median of 10 rows (5% on-chip, 10% off-chip)" in answer[-1]
    assert "the worst is +20%" in answer[-1]
    assert not any("emu.predict" in line for line in cliff_report.answer(SWEEP))
    table = cliff_errors.errors_table(PREDICTED)
    assert table.rows[-1] == ("all", "all", "10", "10.0%", "+10.0%", "-5.0%", "+20.0%")
    assert cliff_errors.errors_table(SWEEP).rows == ()
    labels = [s.label for s in cliff_report.figure(PREDICTED).panels[0].series]
    assert labels == ["off-chip", "on-chip", "on-chip, predicted", "off-chip, predicted"]
    assert len(cliff_errors.rows_table(PREDICTED).rows) == 10


def test_the_hosts_figures_are_told_once_for_each_memory_and_dtype():
    rows = cliff_errors.host_table(PREDICTED).rows
    assert [row[:4] for row in rows] == [
        ("llc", "float32", "20.0", "40.0"),
        ("dram", "float32", "1,000,000", "-"),
    ]
    assert rows[0][5] == "50.0"  # GB/s of reads of 1 MB
    assert rows[1][4:8] == ("-",) * 4
    assert rows[0][-2:] == ("3.00", "10.0")


def timed_again(point, per_kernel_s, **factors):
    """The point with reads beside it, of so many times the bandwidth of then."""
    reads = [
        {
            "memory": memory,
            "dtype": point.dtype,
            "read_bytes": 1_000_000,
            "then_s": 1e-4,
            "now_s": 1e-4 / factor,
        }
        for memory, factor in factors.items()
    ]
    now = {"reads": reads, "per_step_s": 1e-5, "per_kernel_s": per_kernel_s}
    return dataclasses.replace(point, now=now)


def test_the_report_tells_the_machines_drift_from_an_error():
    first, second, *others = [
        dataclasses.replace(p, predicted_by_host_s=1.3 * p.seconds) for p in PREDICTED
    ]
    beside = [
        timed_again(first, 3e-6, llc=1.0, dram=0.5),
        timed_again(second, 6e-6, llc=1.2, dram=0.8),
        *others,
    ]
    found = cliff_errors.errors(beside, by_host=True)
    assert found is not None
    assert found.median == pytest.approx(0.3)
    assert cliff_errors.errors(beside) == cliff_errors.errors(PREDICTED)
    answer = cliff_report.answer(beside)
    assert "off by 10% at the median" in answer[-2]
    assert (
        "llc gave 1.00 to 1.20 times and dram gave 0.500 to 0.800 times what emu.host() had "
        "measured, and starting a kernel took 1.00 to 2.00 times as long. From that alone "
        "predictions would be off by 30% at the median." in answer[-1]
    )
    assert cliff_errors.drift_table(beside).rows == (
        ("llc", first.dtype, "1.00", "10.0", "11.0", "1.00", "1.10", "1.20"),
        ("dram", first.dtype, "1.00", "10.0", "6.50", "0.500", "0.650", "0.800"),
    )
    assert all(row[-1] == "+30.0%" for row in cliff_errors.rows_table(beside).rows)


def test_rows_beside_which_nothing_was_timed_again_are_reported_as_before():
    assert cliff_errors.errors(PREDICTED, by_host=True) is None
    assert cliff_errors.drift_table(PREDICTED).rows == ()
    assert all(row[-1] == "-" for row in cliff_errors.rows_table(PREDICTED).rows)
