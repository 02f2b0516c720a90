"""The residency sweep as tables: by size, by row, and mixed placements against their parts."""

from collections.abc import Sequence

from emu.report import Table
from experiments import cliff_errors
from experiments import cliff_summary as summary
from experiments.cliff_summary import Point, dtypes
from experiments.wording import figures, gb_per_s, mb, us


def tables(points: Sequence[Point]) -> tuple[Table, ...]:
    """By size, mixed against hot plus cold, predictions, what those were made from, every row.

    A comparison that nothing was measured for is left out.
    """
    found = (
        _pairs_table(points),
        _mixed_table(points),
        cliff_errors.errors_table(points),
        cliff_errors.host_table(points),
        cliff_errors.drift_table(points),
        _device_table(points),
        _rows_table(points),
        cliff_errors.rows_table(points),
    )
    return tuple(table for table in found if table.rows)


def _pairs_table(points: Sequence[Point]) -> Table:
    rows = []
    for dtype in dtypes(points):
        for on, off in summary.pairs(points, dtype):
            rows.append(
                (
                    dtype,
                    f"{on.layers:.3g}",
                    mb(on.weight_bytes),
                    "no" if on.excess_bytes else "yes",
                    us(on.seconds / on.layers),
                    us(off.seconds / off.layers),
                    gb_per_s(on.bytes_per_s),
                    gb_per_s(off.bytes_per_s),
                    figures(summary.advantage((on, off))),
                    figures(on.seconds / on.host_on_chip_s),
                    figures(off.seconds / off.host_off_chip_s),
                    _disturbed(on, off),
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
        note="Medians of one decode step of the layers alone, thin ones (parts of a layer, by "
        "key-value heads) counted as parts; a sample of a short one is the mean "
        "of several, enqueued without waiting. on/host and off/host: measured time "
        "over that of the same products, as emu.host() measured them (and again beside each size) "
        "from that memory one after the other, plus the rest of a step, measured on layers with "
        "next to no weights, less what their own small reads take (starting a product is in both). "
        "disturbed: samples during which other processes used the processor; they are in no median "
        "unless all are. *: so many that the row is not to be trusted.",
    )


def _mixed_table(points: Sequence[Point]) -> Table:
    rows = []
    for m in summary.mixed(points):
        p = m.point
        rows.append(
            (
                p.dtype,
                f"{p.layers:.3g}",
                p.placement,
                mb(p.on_chip_bytes),
                mb(p.weight_bytes - p.on_chip_bytes),
                us(p.seconds),
                us(m.hot_s),
                us(m.cold_s),
                figures(m.ratio),
                "past the cache" if m.past_the_cache else "yes",
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
            "fits",
        ),
        rows=tuple(rows),
        note="Where all of the model fits on chip, hot and cold are the same program's on-chip and "
        "off-chip times, by turns with it, each for its share of the bytes. Past the cache both "
        "parts together exceed the on-chip memory, so that the cold one may evict the hot one; hot "
        "is then the on-chip time of a model of the first half of the layers, cold the off-chip "
        "time of one of as many layers as the others (of the nearest number that was measured, by "
        "layers), and what a call costs is in both.",
    )


def _device_table(points: Sequence[Point]) -> Table:
    return Table(
        title="A step called from Python, and one of many in one program",
        columns=("dtype", "layers", "placement", "called µs", "in one µs", "called/in one"),
        rows=tuple(
            (
                p.dtype,
                f"{p.layers:.3g}",
                p.placement,
                us(p.seconds),
                us(p.device_mean_s),
                figures(p.seconds / p.device_mean_s),
            )
            for p in points
            if p.device_mean_s
        ),
        note="called: of the steps of one kernel, dispatch and the copying of the weights on chip "
        "among them; in one: what a step more takes, without both."
        if any(p.scratchpad for p in points)
        else "in one: the mean of the steps of one jitted program that takes milliseconds, without "
        "the host's dispatch between them.",
    )


def _rows_table(points: Sequence[Point]) -> Table:
    return Table(
        title="Every placement that was measured",
        columns=(
            "dtype",
            "layers",
            "placement",
            "MB",
            "median µs",
            "p10",
            "p90",
            "p99",
            "p99 of all",
            "count",
            "disturbed",
        ),
        rows=tuple(
            (
                p.dtype,
                f"{p.layers:.3g}",
                p.placement,
                mb(p.weight_bytes),
                *(us(s) for s in (p.seconds, p.p10_s, p.p90_s, p.p99_s, p.p99_all_s)),
                str(p.count),
                _disturbed(p),
            )
            for p in points
        ),
        note="One decode step, in µs. Median and percentiles are of the `count` undisturbed "
        "samples, or of all where every one was disturbed; p99 of all is of both. *: so many "
        "disturbed that the row is not to be trusted.",
    )


def _disturbed(*points: Point) -> str:
    """How many samples were, of all; a star where a row is marked for it."""
    if not all(p.metered for p in points):
        return "not metered"
    star = " *" if any(p.is_disturbed for p in points) else ""
    return f"{sum(p.disturbed for p in points)} of {sum(p.samples for p in points)}{star}"
