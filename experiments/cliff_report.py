"""The residency sweep as an answer in words, a figure and tables."""

import math
from collections.abc import Sequence

from emu.report import Figure, Panel, Series, Table
from experiments import cliff_summary as summary
from experiments.cliff_summary import Point
from experiments.wording import figures, gb_per_s, listed, mb, us


def dtypes(points: Sequence[Point]) -> list[str]:
    """The dtypes that were measured, in the order of the rows."""
    return list(dict.fromkeys(p.dtype for p in points))


def answer(points: Sequence[Point]) -> tuple[str, ...]:
    """How much faster on chip, and where that ends, in two or three sentences."""
    if not points:
        return ("Nothing has been measured yet.",)
    on_chip, off_chip = points[0].on_chip, points[0].off_chip
    gains, cliffs = [], []
    for dtype in dtypes(points):
        top = summary.best(points, dtype)
        if top is None:
            continue
        on, off = top
        gains.append(
            f"{figures(summary.advantage(top))} times in {dtype} ({gb_per_s(on.bytes_per_s)} "
            f"against {gb_per_s(off.bytes_per_s)} GB/s at {mb(on.weight_bytes)} MB)"
        )
        cliffs.append(f"{_cliff_words(points, dtype)} in {dtype}")
    if not gains:
        return ("On-chip and off-chip have not both been measured: there is nothing to compare.",)
    capacity = mb(points[0].capacity_bytes)
    return (
        f"Weights that stay in {on_chip} are read faster than weights from {off_chip}, at best "
        f"{listed(gains)}.",
        f"The cliff, where half of that advantage is gone, lies {listed(cliffs)}; this process "
        f"can use {capacity} MB of {on_chip}.",
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
        note="Medians with whiskers from p10 to p90. Dashed: the same products, one after the "
        "other, as emu.host() measured them, plus the rest of a step. Dotted: the capacity that "
        "this process has.",
    )


def tables(points: Sequence[Point]) -> tuple[Table, ...]:
    """On chip against off chip by size, and mixed placements against hot plus cold."""
    found = [_pairs_table(points)]
    if summary.mixed(points):
        found.append(_mixed_table(points))
    return tuple(found)


def _cliff_words(points: Sequence[Point], dtype: str) -> str:
    found = summary.pairs(points, dtype)
    at = summary.cliff_bytes(found)
    if at is None:
        return "nowhere (no advantage was seen)"
    if math.isinf(at):
        return f"beyond the largest size, {mb(found[-1][0].weight_bytes)} MB,"
    return f"at {mb(at)} MB"


def _panel(points: Sequence[Point], dtype: str, *, speed: bool) -> Panel:
    def height(weight_bytes: float, seconds: float, layers: int) -> float:
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
    line = summary.curve(points, dtype, "off-chip") or summary.curve(points, dtype, "on-chip")
    for name, like, seconds in (
        ("on_chip", "on-chip", [p.host_on_chip_s for p in line]),
        ("off_chip", "off-chip", [p.host_off_chip_s for p in line]),
    ):
        if line:
            series.append(
                Series(
                    label=f"{getattr(line[0], name)} by emu.host()",
                    x=tuple(p.weight_bytes / 1e6 for p in line),
                    y=tuple(
                        height(p.weight_bytes, s, p.layers)
                        for p, s in zip(line, seconds, strict=True)
                    ),
                    style="dashed",
                    like=like,
                )
            )
    return Panel(
        title=dtype,
        x_label="weights, MB",
        y_label="GB/s" if speed else "µs per layer",
        series=tuple(series),
        marks=tuple((p.capacity_bytes / 1e6, p.on_chip) for p in line[:1]),
        log_x=True,
    )


def _pairs_table(points: Sequence[Point]) -> Table:
    rows = []
    for dtype in dtypes(points):
        for on, off in summary.pairs(points, dtype):
            rows.append(
                (
                    dtype,
                    str(on.layers),
                    mb(on.weight_bytes),
                    "no" if on.excess_bytes else "yes",
                    us(on.seconds / on.layers),
                    us(off.seconds / off.layers),
                    gb_per_s(on.bytes_per_s),
                    gb_per_s(off.bytes_per_s),
                    figures(summary.advantage((on, off))),
                    figures(on.seconds / on.host_on_chip_s),
                    figures(off.seconds / off.host_off_chip_s),
                    f"{on.disturbed + off.disturbed} of {on.samples + off.samples}",
                )
            )
    names = (points[0].on_chip, points[0].off_chip) if points else ("on chip", "off chip")
    return Table(
        title=f"Weights in {names[0]} against weights in {names[1]}",
        columns=(
            "dtype",
            "layers",
            "MB",
            "fits",
            "on µs/layer",
            "off µs/layer",
            "on GB/s",
            "off GB/s",
            "off/on",
            "on/host",
            "off/host",
            "disturbed",
        ),
        rows=tuple(rows),
        note="Medians of one decode step of the layers alone; a sample of a short one is the mean "
        "of several, enqueued without waiting. on/host and off/host: measured time "
        "over that of the same products, as emu.host() measured them from that memory one after "
        "the other, plus the rest of a step, measured on layers with next to no weights. "
        "disturbed: samples during which other processes used the processor; they are in no median "
        "unless all are.",
    )


def _mixed_table(points: Sequence[Point]) -> Table:
    rows = []
    for m in summary.mixed(points):
        p = m.point
        rows.append(
            (
                p.dtype,
                str(p.layers),
                p.placement,
                mb(p.on_chip_bytes),
                mb(p.weight_bytes - p.on_chip_bytes),
                us(p.seconds),
                us(m.hot_s),
                us(m.cold_s),
                figures(m.ratio),
            )
        )
    return Table(
        title="Mixed placements against their hot part plus their cold part",
        columns=(
            "dtype",
            "layers",
            "placement",
            "on MB",
            "off MB",
            "step µs",
            "hot µs",
            "cold µs",
            "step/(hot+cold)",
        ),
        rows=tuple(rows),
        note="hot: the on-chip time of the same model for the share of its bytes that is on chip; "
        "cold: the off-chip time for the rest.",
    )
