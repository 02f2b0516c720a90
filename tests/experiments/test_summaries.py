import dataclasses
import math

import pytest

from experiments import (
    cliff_report,
    cliff_summary,
    cliff_tables,
    decode_report,
    placements,
    quickstart,
)
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
        p99_all_s=seconds * 1.3,
        count=97,
        samples=100,
        disturbed=3,
        is_disturbed=False,
        metered=True,
        one_memory=False,
        host_on_chip_s=seconds,
        host_off_chip_s=seconds,
    )


# Off chip a layer takes 200 µs; on chip 100 µs while two layers fit, then 120, 175 and 200 µs.
SWEEP = [point(n, "off-chip", n * 200e-6) for n in (1, 2, 4, 8, 16)] + [
    point(n, "on-chip", n * layer_s)
    for n, layer_s in ((1, 100e-6), (2, 100e-6), (4, 120e-6), (8, 175e-6), (16, 200e-6))
]


def marked(points: list[Point], *layers: int) -> list[Point]:
    """The same, with the rows of these sizes marked as disturbed."""
    return [dataclasses.replace(p, is_disturbed=p.layers in layers) for p in points]


def slower(points: list[Point], layers: int, placement: str, factor: float) -> list[Point]:
    return [
        dataclasses.replace(p, seconds=p.seconds * factor)
        if (p.layers, p.placement) == (layers, placement)
        else p
        for p in points
    ]


def quoted_layers(points: list[Point]) -> int:
    best = cliff_summary.best(points, "float32")
    assert best is not None
    return best[0].layers


def test_the_quoted_size_is_the_largest_that_fits_not_the_luckiest() -> None:
    best = cliff_summary.best(SWEEP, "float32")
    assert best is not None
    assert best[0].layers == 2
    assert cliff_summary.advantage(best) == pytest.approx(2.0)
    lucky = slower(SWEEP, 1, "off-chip", 5)
    assert quoted_layers(lucky) == 2
    pairs = cliff_summary.pairs
    # The cliff's peak is the quoted pair too.
    assert cliff_summary.cliff_bytes(pairs(lucky, "float32")) == cliff_summary.cliff_bytes(
        pairs(SWEEP, "float32")
    )
    assert cliff_summary.best(SWEEP, "int8") is None


def test_disturbed_rows_are_not_quoted_where_others_fit() -> None:
    assert quoted_layers(marked(SWEEP, 2)) == 1
    assert quoted_layers(marked(SWEEP, 1, 2)) == 2
    assert quoted_layers([p for p in SWEEP if p.layers > 2]) == 4  # none fits: the smallest
    assert "disturbed by other processes" in cliff_report.answer(marked(SWEEP, 1, 2))[0]
    assert "disturbed" not in cliff_report.answer(marked(SWEEP, 2))[0]
    line = cliff_summary.descent(cliff_summary.pairs(marked(SWEEP, 2, 4), "float32"))
    assert [on.layers for on, _ in line] == [1, 8, 16]
    (table, _) = cliff_tables.tables(marked(SWEEP, 2))
    assert [row[-1] for row in table.rows[:3]] == ["6 of 200", "6 of 200 *", "6 of 200"]


def test_the_cliff_is_where_half_of_the_advantage_is_gone() -> None:
    # The advantage is 2, 2, 1.667, 1.143, 1: it crosses 1.5 between 40 MB and 80 MB, at
    # (1.667 - 1.5) / (1.667 - 1.143) = 0.318 of the way in log bytes: 40 MB * 2**0.318.
    at = cliff_summary.cliff_bytes(cliff_summary.pairs(SWEEP, "float32"))
    assert at == pytest.approx(40 * MB * 2 ** ((200 / 120 - 1.5) / (200 / 120 - 200 / 175)))


def test_there_may_be_no_cliff_or_none_yet() -> None:
    fits = [p for p in SWEEP if p.layers <= 2]
    flat = [point(n, p, n * 200e-6) for n in (1, 2) for p in ("on-chip", "off-chip")]
    assert cliff_summary.cliff_bytes(cliff_summary.pairs(flat, "float32")) is None
    assert cliff_summary.cliff_bytes([]) is None
    assert cliff_summary.cliff_bytes(cliff_summary.pairs(fits, "float32")) == math.inf
    none, cliff = cliff_report.answer(flat)
    assert none.startswith("No advantage of llc over dram was seen")
    assert "1.00 times in float32" in none
    assert "faster" not in none
    assert "nowhere (no advantage was seen)" in cliff
    assert "are read faster" in cliff_report.answer(fits)[0]
    assert "beyond the largest size, 20.0 MB" in cliff_report.answer(fits)[1]


def test_a_cpus_memory_kinds_are_said_to_be_one_memory() -> None:
    (line,) = cliff_report.answer([dataclasses.replace(p, one_memory=True) for p in SWEEP])
    assert line.startswith("On a CPU llc and dram are the same memory, so neither is faster")


def test_half_is_held_against_its_halves_and_past_the_cache_against_models_of_their_own() -> None:
    half = point(2, "half-on-chip", 310e-6, on_chip_share=0.5)
    past = point(8, "half-on-chip", 1e-3, on_chip_share=0.5)
    unknown = point(32, "half-on-chip", 1.0, on_chip_share=0.5)  # 16 on chip, 16 off: measured
    other = point(6, "half-on-chip", 1.0, on_chip_share=0.5)  # three on chip were not
    found = cliff_summary.mixed([*SWEEP, half, past, unknown, other])
    assert [m.point.layers for m in found] == [2, 8, 32]
    assert found[0].hot_s == pytest.approx(100e-6)  # half of two layers on chip
    assert found[0].cold_s == pytest.approx(200e-6)  # half of two layers off chip
    assert found[0].ratio == pytest.approx(310 / 300)
    assert found[1].hot_s == pytest.approx(4 * 120e-6)
    assert found[1].cold_s == pytest.approx(4 * 200e-6)
    assert [m.past_the_cache for m in found] == [False, True, True]
    three = point(3, "half-on-chip", 1.0, on_chip_share=1 / 3)
    (odd,) = cliff_summary.mixed([*SWEEP[:1], SWEEP[5], three])  # one layer, on and off
    assert odd.cold_s == pytest.approx(2 * 200e-6)  # of the nearest that was measured


def test_other_mixes_are_held_against_their_shares_only_where_all_fits() -> None:
    fits = point(2, "attention-on-chip", 400e-6, on_chip_share=0.25)
    past = point(8, "attention-on-chip", 1e-3, on_chip_share=0.25)
    (found,) = cliff_summary.mixed([*SWEEP, fits, past])
    assert found.point is fits
    assert found.hot_s == pytest.approx(0.25 * 200e-6)
    assert found.cold_s == pytest.approx(0.75 * 400e-6)


def answer(task: str, dtype: str, tpot_s: float, placement: str = "off-chip") -> Answer:
    return Answer(
        task=task,
        dtype=dtype,
        placement=placement,
        label=placement,
        backend="cpu",
        on_chip="llc",
        off_chip="dram",
        weight_bytes=540 * MB,
        on_chip_bytes=0,
        excess_bytes=0,
        prompt_tokens=100,
        new_tokens=50,
        ttft_s=0.2,
        tpot_s=tpot_s,
        gaps_s=(tpot_s,) * 49,
        gaps_disturbed=(),
        ttft_disturbed=False,
        metered=True,
        disturbed=0,
    )


def overflowing(task: str, dtype: str) -> Answer:
    label = placements.label("on-chip", 520 * MB)
    return dataclasses.replace(
        answer(task, dtype, 0.012, "on-chip"), label=label, excess_bytes=520 * MB
    )


def test_groups_take_medians_over_tasks() -> None:
    times = {"a": 0.010, "b": 0.012, "c": 0.099}
    (group,) = groups(answer(task, "float32", tpot_s) for task, tpot_s in times.items())
    assert group.tpot_s == 0.012


def test_gaps_are_pooled_over_tasks() -> None:
    # 10 gaps of 1 ms in one task, 90 of 2 ms in another, two of them disturbed (9 s): over all
    # 98 calm ones the median is 2 ms and p10 is on the edge, at place 9.7 of 0 to 97, where the
    # medians of the two tasks would be 1.5 ms.
    one = dataclasses.replace(answer("a", "float32", 0.001), gaps_s=(1e-3,) * 10)
    two = dataclasses.replace(
        answer("b", "float32", 0.002), gaps_s=(2e-3,) * 88 + (9.0,) * 2, gaps_disturbed=(88, 89)
    )
    (group,) = groups([one, two])
    assert group.itl.median_s == 2e-3
    assert group.itl.p10_s == pytest.approx(1.7e-3)
    assert group.itl.p99_s == 2e-3
    assert group.itl.p99_all_s == pytest.approx(9.0)  # place 98.01 of 0 to 99
    assert (group.itl.count, group.itl.disturbed_count) == (98, 2)


def test_humaneval_table_has_the_spread_of_both_latencies() -> None:
    found = [answer(task, "float32", 0.01) for task in "abc"]
    found[2] = dataclasses.replace(found[2], ttft_s=9.0, ttft_disturbed=True, metered=False)
    table, spread = decode_report.tables(found)
    assert table.rows[0][-1] == "not metered"
    assert spread.rows == (
        ("float32", "off-chip", "TTFT", "200", "200", "200", "200", "8,820", "2"),
        ("float32", "off-chip", "ITL", "10.0", "10.0", "10.0", "10.0", "10.0", "147"),
    )


def test_an_overflowing_placement_is_labelled_wherever_it_is_shown() -> None:
    label = "on-chip policy, 520 MB over capacity"
    assert placements.label("on-chip", 520 * MB) == label
    assert placements.label("on-chip", 0) == "on-chip"
    found = [answer("a", "float32", 0.012), overflowing("a", "float32")]
    for table in decode_report.tables(found):
        assert {row[1] for row in table.rows} == {"off-chip", label}
    for panel in decode_report.figure(found).panels:
        assert [s.label for s in panel.series] == ["float32, off-chip", f"float32, {label}"]
    assert (
        "meant for llc, whose capacity they exceed by 520 MB;"
        in (decode_report.answer(found, "tiny")[1])
    )


def test_why_the_first_token_is_slow_stands_where_its_number_is() -> None:
    found = [answer("a", dtype, 0.012) for dtype in ("float32", "bfloat16", "int8")]
    table, _ = decode_report.tables(found)
    at = table.columns.index("TTFT ms")
    assert [row[at] for row in table.rows] == ["200", "200 w", "200 w"]
    assert "w: XLA:CPU writes the weights out in float32" in table.note
    assert "XLA:CPU" in decode_report.figure(found).note
    said = decode_report.answer(found, "tiny")[-1]
    assert said.startswith("About the first token in bfloat16 and int8: XLA:CPU writes")
    elsewhere = [dataclasses.replace(a, backend="gpu") for a in found]
    for quiet in (found[:1], elsewhere):
        assert "XLA:CPU" not in decode_report.tables(quiet)[0].note
        assert "XLA:CPU" not in decode_report.figure(quiet).note
        assert len(decode_report.answer(quiet, "tiny")) == 1


def test_every_row_is_shown_whatever_its_placement() -> None:
    own = dataclasses.replace(point(3, "rules", 300e-6, 0.3), is_disturbed=True)
    blind = dataclasses.replace(point(4, "fit", 400e-6, 0.3), metered=False)
    (table,) = cliff_tables.tables([own, blind])
    head = ("float32", "3", "rules", "30.0")
    assert table.rows[0] == (*head, "300", "270", "330", "360", "390", "97", "3 of 100 *")
    assert table.rows[1][-1] == "not metered"


def test_quickstart_says_what_a_token_takes_in_both_memories() -> None:
    answers = [answer("a", "float32", 0.012)]
    line, guess = quickstart.per_token(SWEEP, answers, "tiny")
    assert line == (
        "On this machine one token of tiny takes 12.0 ms in float32 (540 MB) with its weights in "
        "dram."
    )
    assert guess.startswith(
        "Extrapolated, not measured: 6.00 ms in float32 (2.00 times at 20.0 MB) if all weights "
        "stayed in llc. That supposes that the whole step"
    )
    _, guess = quickstart.per_token(marked(SWEEP, 1, 2), answers, "tiny")
    assert "(2.00 times at 20.0 MB, disturbed by other processes)" in guess
    no_gain = [p for p in SWEEP if p.layers == 16]
    assert quickstart.per_token(no_gain, answers, "tiny") == (line,)


def test_reports_of_nothing_say_so() -> None:
    assert cliff_report.answer([]) == ("Nothing has been measured yet.",)
    assert decode_report.answer([], "tiny") == ("Nothing has been measured yet.",)
    assert cliff_report.figure([]).panels == ()
    assert decode_report.tables([])[0].rows == ()


def test_tables_hold_what_was_measured() -> None:
    half = point(2, "half-on-chip", 310e-6, on_chip_share=0.5)
    pairs, mixed, _ = cliff_tables.tables([*SWEEP, half])
    cells = dict(zip(pairs.columns, pairs.rows[0], strict=True))
    assert cells["on µs/layer"] == "100"
    assert cells["off GB/s"] == "50.0"
    assert cells["off/on"] == "2.00"
    assert cells["disturbed"] == "6 of 200"
    assert mixed.rows[0][-2:] == ("1.03", "yes")
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
