"""The residency sweep as an answer in words and a figure; its tables are in `cliff_tables`."""

import math
from collections.abc import Mapping, Sequence

from emu.report import Figure, Panel, Series
from experiments import cliff_errors
from experiments import cliff_summary as summary
from experiments.cliff_summary import Point, dtypes
from experiments.wording import figures, gb_per_s, listed, mb


def answer(points: Sequence[Point]) -> tuple[str, ...]:
    """How much faster on chip, and where that ends, in a few sentences."""
    if not points:
        return ("Nothing has been measured yet.",)
    on_chip, off_chip = points[0].on_chip, points[0].off_chip
    tops = {d: top for d in dtypes(points) if (top := summary.best(points, d)) is not None}
    if not tops:
        return ("On-chip and off-chip have not both been measured: there is nothing to compare.",)
    if points[0].one_memory:
        return (
            f"On a CPU {on_chip} and {off_chip} are the same memory, so neither is faster: the "
            f"time from {off_chip} over that from {on_chip} was {_gains(tops)}.",
        )
    seen = {d: top for d, top in tops.items() if summary.advantage(top) >= summary.SEEN}
    unseen = {d: top for d, top in tops.items() if d not in seen}
    sentences = []
    if seen:
        sentences.append(
            f"Weights that stay in {on_chip} are read faster than weights from {off_chip}: "
            f"{_gains(seen)}."
        )
    if unseen:
        sentences.append(
            f"No advantage of {on_chip} over {off_chip} was seen (less than {summary.SEEN} times "
            f"counts as none): {_gains(unseen)}."
        )
    cliffs = [f"{_cliff_words(points, dtype)} in {dtype}" for dtype in tops]
    capacity = mb(points[0].capacity_bytes)
    return (
        *sentences,
        f"The cliff, where half of the advantage is gone, lies {listed(cliffs)}; this process "
        f"can use {capacity} MB of {on_chip}.",
        *cliff_errors.sentence(points),
    )


def figure(points: Sequence[Point], name: str = "cliff") -> Figure:
    """Achieved bandwidth (above) and time per layer (below) against weight bytes."""
    panels = [_panel(points, dtype, speed=True) for dtype in dtypes(points)]
    panels += [_panel(points, dtype, speed=False) for dtype in dtypes(points)]
    return Figure(
        name=name,
        title="One decode step of the first layers of the model, by where its weights live",
        panels=tuple(panels),
        columns=max(1, len(panels) // 2),
        note="Medians with whiskers from p10 to p90. Dashed: what emu.predict says of the same "
        "step on emu.host(), whose numbers are of no model, some of them measured again beside "
        "each size. Dotted: the capacity that this process has.",
    )


def _gains(tops: Mapping[str, tuple[Point, Point]]) -> str:
    """The quoted advantage of each dtype, and at which size it was measured."""
    gains = []
    for dtype, (on, off) in tops.items():
        size = f"{mb(on.weight_bytes)} MB"
        if on.excess_bytes:
            size += ", more than fits"
        if summary.disturbed((on, off)):
            size += ", disturbed by other processes"
        gains.append(
            f"{figures(summary.advantage((on, off)))} times in {dtype} "
            f"({gb_per_s(on.bytes_per_s)} against {gb_per_s(off.bytes_per_s)} GB/s at {size})"
        )
    return listed(gains)


def _cliff_words(points: Sequence[Point], dtype: str) -> str:
    found = summary.pairs(points, dtype)
    at = summary.cliff_bytes(found)
    if at is None:
        return "nowhere (no advantage was seen)"
    if math.isinf(at):
        return f"beyond the largest size, {mb(summary.descent(found)[-1][0].weight_bytes)} MB,"
    return f"at {mb(at)} MB"


def _panel(points: Sequence[Point], dtype: str, *, speed: bool) -> Panel:
    def height(weight_bytes: float, seconds: float, layers: float) -> float:
        return weight_bytes / seconds / 1e9 if speed else seconds / layers * 1e6

    series = []
    for placement in dict.fromkeys(p.placement for p in points):
        line = summary.curve(points, dtype, placement)
        slow = [height(p.weight_bytes, p.p90_s, p.layers) for p in line]
        fast = [height(p.weight_bytes, p.p10_s, p.layers) for p in line]
        series.append(
            Series(
                label=placement,
                x=tuple(p.weight_bytes / 1e6 for p in line),
                y=tuple(height(p.weight_bytes, p.seconds, p.layers) for p in line),
                low=tuple(slow if speed else fast),
                high=tuple(fast if speed else slow),
                style="line" if placement in ("on-chip", "off-chip") else "points",
            )
        )
    for placement in ("on-chip", "off-chip"):
        line = [p for p in summary.curve(points, dtype, placement) if p.predicted_s is not None]
        if line:
            series.append(
                Series(
                    label=f"{placement}, predicted",
                    x=tuple(p.weight_bytes / 1e6 for p in line),
                    y=tuple(
                        height(p.weight_bytes, p.predicted_s, p.layers)
                        for p in line
                        if p.predicted_s is not None
                    ),
                    style="dashed",
                    like=placement,
                )
            )
    first = [p for p in points if p.dtype == dtype][:1]
    return Panel(
        title=dtype,
        x_label="weights, MB",
        y_label="GB/s" if speed else "µs per layer",
        series=tuple(series),
        marks=tuple((p.capacity_bytes / 1e6, p.on_chip) for p in first),
        log_x=True,
    )
