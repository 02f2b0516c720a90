import math

import pytest

from experiments import cliff_report, cliff_summary, decode_report, quickstart
from experiments.cliff_summary import Point
from experiments.decode_summary import Answer, groups
from experiments.wording import figures, listed

MB = 1_000_000


def point(layers: int, placement: str, seconds: float, on_chip_share: float = 0.0) -> Point:
    weight_bytes = 10 * MB * layers
    share = 1.0 if placement == "on-chip" else on_chip_share
    return Point(
        dtype="float32",
        layers=layers,
        placement=placement,
        on_chip="llc",
        off_chip="dram",
        weight_bytes=weight_bytes,
        on_chip_bytes=int(share * weight_bytes),
        excess_bytes=max(0, int(share * weight_bytes) - 25 * MB),
        capacity_bytes=25 * MB,
        seconds=seconds,
        p10_s=seconds * 0.9,
        p90_s=seconds * 1.1,
        p99_s=seconds * 1.2,
        samples=100,
        disturbed=3,
        host_on_chip_s=seconds,
        host_off_chip_s=seconds,
    )


# Off chip a layer takes 200 µs; on chip 100 µs while two layers fit, then 120, 175 and 200 µs.
SWEEP = [point(n, "off-chip", n * 200e-6) for n in (1, 2, 4, 8, 16)] + [
    point(n, "on-chip", n * layer_s)
    for n, layer_s in ((1, 100e-6), (2, 100e-6), (4, 120e-6), (8, 175e-6), (16, 200e-6))
]


def test_the_best_pair_is_among_the_sizes_that_fit() -> None:
    best = cliff_summary.best(SWEEP, "float32")
    assert best is not None
    assert best[0].layers in (1, 2)
    assert cliff_summary.advantage(best) == pytest.approx(2.0)
    assert cliff_summary.best(SWEEP, "int8") is None


def test_the_cliff_is_where_half_of_the_advantage_is_gone() -> None:
    # The advantage is 2, 2, 1.667, 1.143, 1: it crosses 1.5 between 40 MB and 80 MB, at
    # (1.667 - 1.5) / (1.667 - 1.143) = 0.318 of the way in log bytes: 40 MB * 2**0.318.
    at = cliff_summary.cliff_bytes(cliff_summary.pairs(SWEEP, "float32"))
    assert at == pytest.approx(40 * MB * 2 ** ((200 / 120 - 1.5) / (200 / 120 - 200 / 175)))


def test_there_may_be_no_cliff_or_none_yet() -> None:
    flat = [point(n, p, n * 200e-6) for n in (1, 2) for p in ("on-chip", "off-chip")]
    assert cliff_summary.cliff_bytes(cliff_summary.pairs(flat, "float32")) is None
    assert cliff_summary.cliff_bytes([]) is None
    fits = [p for p in SWEEP if p.layers <= 2]
    assert cliff_summary.cliff_bytes(cliff_summary.pairs(fits, "float32")) == math.inf
    assert "nowhere (no advantage was seen)" in cliff_report.answer(flat)[1]
    assert "beyond the largest size, 20.0 MB" in cliff_report.answer(fits)[1]


def test_mixed_is_held_against_hot_plus_cold() -> None:
    half = point(2, "half-on-chip", 310e-6, on_chip_share=0.5)
    (mixed,) = cliff_summary.mixed([*SWEEP, half, point(32, "half-on-chip", 1.0, 0.5)])
    assert mixed.hot_s == pytest.approx(100e-6)  # half of the 200 µs of two layers on chip
    assert mixed.cold_s == pytest.approx(200e-6)  # half of their 400 µs off chip
    assert mixed.ratio == pytest.approx(310 / 300)


def answer(task: str, dtype: str, tpot_s: float, placement: str = "off-chip") -> Answer:
    return Answer(
        task=task,
        dtype=dtype,
        placement=placement,
        on_chip="llc",
        off_chip="dram",
        weight_bytes=540 * MB,
        on_chip_bytes=0,
        excess_bytes=0,
        prompt_tokens=100,
        new_tokens=50,
        ttft_s=0.2,
        tpot_s=tpot_s,
        itl_median_s=tpot_s,
        itl_p99_s=2 * tpot_s,
        gaps=49,
        disturbed=0,
    )


def test_groups_take_medians_over_tasks() -> None:
    times = {"a": 0.010, "b": 0.012, "c": 0.099}
    (group,) = groups(answer(task, "float32", tpot_s) for task, tpot_s in times.items())
    assert group.tpot_s == 0.012
    assert group.itl_p99_s == pytest.approx(0.198)


def test_quickstart_says_what_a_token_takes_in_both_memories() -> None:
    (line,) = quickstart.per_token(SWEEP, [answer("a", "float32", 0.012)], "tiny")
    assert line == (
        "On this machine one token of tiny takes 12.0 ms in float32 (540 MB) with its weights in "
        "dram; if they all stayed in llc, about 6.00 ms."
    )


def test_reports_of_nothing_say_so() -> None:
    assert cliff_report.answer([]) == ("Nothing has been measured yet.",)
    assert decode_report.answer([], "tiny") == ("Nothing has been measured yet.",)
    assert cliff_report.figure([]).panels == ()
    assert decode_report.tables([])[0].rows == ()


def test_tables_hold_what_was_measured() -> None:
    half = point(2, "half-on-chip", 310e-6, on_chip_share=0.5)
    pairs, mixed = cliff_report.tables([*SWEEP, half])
    cells = dict(zip(pairs.columns, pairs.rows[0], strict=True))
    assert cells["on µs/layer"] == "100"
    assert cells["off GB/s"] == "50.0"
    assert cells["off/on"] == "2.00"
    assert cells["disturbed"] == "6 of 200"
    assert mixed.rows[0][-1] == "1.03"
    panel, below = cliff_report.figure([*SWEEP, half]).panels
    by_label = {s.label: s for s in panel.series}
    assert by_label["on-chip"].x == (10, 20, 40, 80, 160)
    assert by_label["on-chip"].y[0] == pytest.approx(100)  # 10 MB in 100 µs
    assert by_label["half-on-chip"].style == "points"
    assert panel.marks == ((25, "llc"),)
    assert all(
        low <= y <= high
        for s in (*panel.series, *below.series)
        if s.low
        for low, y, high in zip(s.low, s.y, s.high, strict=True)
    )


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0.00"),
        (0.012345, "0.0123"),
        (0.99999, "1.00"),
        (1.5, "1.50"),
        (12.34, "12.3"),
        (99.96, "100"),
        (1234.5, "1,230"),
        (-2.5, "-2.50"),
        (0.5, "0.500"),
    ],
)
def test_three_figures(number: float, shown: str) -> None:
    assert figures(number) == shown


def test_listed() -> None:
    assert [listed(list("abc"[:n])) for n in range(4)] == ["", "a", "a and b", "a, b and c"]
