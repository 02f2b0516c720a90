"""How far the predictions are off, and from what figures of the machine they were made."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emu.chips import Curve
from emu.report import Table
from experiments.cliff_summary import Point, dtypes
from experiments.wording import figures, gb_per_s, listed, mb, us

READS = (250_000, 1_000_000, 4_000_000)  # bytes, of which the host's table tells the bandwidth


@dataclasses.dataclass(frozen=True, kw_only=True)
class Errors:
    """Errors of predictions, relative to what was measured: predicted ÷ measured - 1."""

    dtype: str
    placement: str
    signed: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of the absolute errors."""
        return float(np.median(np.abs(self.signed)))

    @property
    def worst(self) -> float:
        """The one farthest from 0, with its sign."""
        return max(self.signed, key=abs)


def errors(
    points: Sequence[Point], dtype: str = "", placement: str = "", *, by_host: bool = False
) -> Errors | None:
    """The errors of a dtype and a placement ("": all); None where nothing was predicted.

    Disturbed rows are left out, unless all of them were. `by_host`: of predictions by what
    `emu.host()` had measured, without what was timed again beside the rows.
    """
    found = [
        (p, predicted_s)
        for p in points
        if (predicted_s := p.predicted_by_host_s if by_host else p.predicted_s) is not None
        and dtype in ("", p.dtype)
        and placement in ("", p.placement)
    ]
    calm = [one for one in found if not one[0].is_disturbed] or found
    if not calm:
        return None
    signed = tuple(predicted_s / p.seconds - 1 for p, predicted_s in calm)
    return Errors(dtype=dtype, placement=placement, signed=signed)


def sentence(points: Sequence[Point]) -> tuple[str, ...]:
    """How far off the predictions were, in one sentence, or none."""
    all_of_them = errors(points)
    if all_of_them is None or points[0].one_memory:
        return ()
    policies = [
        f"{found.median:.0%} {name}"
        for name in ("on-chip", "off-chip")
        if (found := errors(points, placement=name)) is not None
    ]
    return (
        "emu.predict, from reads and kernels that emu.host() timed without any model, is off by "
        f"{all_of_them.median:.0%} at the median of {len(all_of_them.signed)} rows "
        f"({', '.join(policies)}); the worst is {all_of_them.worst:+.0%}.",
        *_drift_sentence(points),
    )


def _drift_sentence(points: Sequence[Point]) -> tuple[str, ...]:
    """How far the machine had drifted, and what predictions would be without knowing."""
    without = errors(points, by_host=True)
    factors: dict[str, list[float]] = {}
    for one in _reads(points):
        factors.setdefault(one["memory"], []).append(one["then_s"] / one["now_s"])
    if without is None or not factors:
        return ()
    drifted = [f"{memory} gave {_span(found)} times" for memory, found in factors.items()]
    kernels = _span([p.now["per_kernel_s"] / p.host["per_kernel_s"] for p in points if p.now])
    return (
        "Each size is predicted from reads and kernels of no model that were timed again beside "
        f"it, since others share this machine: {listed(drifted)} what emu.host() had measured, and "
        f"starting a kernel took {kernels} times as long. From that alone predictions would be "
        f"off by {without.median:.0%} at the median.",
    )


def _span(found: Sequence[float]) -> str:
    return f"{figures(min(found))} to {figures(max(found))}"


def _reads(points: Sequence[Point]) -> list[Mapping[str, Any]]:
    """Every read that was timed again: `emu.drift.Drift`, by field."""
    return [one for p in points for one in p.now.get("reads", ())]


def errors_table(points: Sequence[Point]) -> Table:
    """Median, bias and worst of each dtype and placement, then of all."""
    groups = [
        found
        for dtype in (*dtypes(points), "")
        for placement in (*dict.fromkeys(p.placement for p in points), "")
        if (dtype or not placement) and (found := errors(points, dtype, placement)) is not None
    ]
    return Table(
        title="Measured against what emu.predict says of emu.host()",
        columns=("dtype", "placement", "rows", "median |error|", "median", "lowest", "highest"),
        rows=tuple(
            (
                e.dtype or "all",
                e.placement or "all",
                str(len(e.signed)),
                f"{e.median:.1%}",
                *(f"{n:+.1%}" for n in (np.median(e.signed), min(e.signed), max(e.signed))),
            )
            for e in groups
        ),
        note="error: predicted over measured, less one. The prediction is of the function that is "
        "timed, traced and placed by the same rules, on what emu.host() measured with products, "
        "small kernels and empty steps of its own, some of them again beside each size: nothing "
        "is fitted to the rows. Where weights "
        "meant to stay on chip exceed what the cache holds, the share that misses is a straight "
        "line through the capacity and the size at which nearly nothing stays. Rows that others "
        "disturbed are left out.",
    )


def rows_table(points: Sequence[Point]) -> Table:
    """Every prediction."""
    return Table(
        title="Every prediction",
        columns=(
            "dtype",
            "layers",
            "placement",
            "MB",
            "measured µs",
            "predicted µs",
            "error",
            "by host() alone",
        ),
        rows=tuple(
            (
                p.dtype,
                f"{p.layers:.3g}",
                p.placement,
                mb(p.weight_bytes),
                us(p.seconds),
                us(p.predicted_s),
                f"{p.predicted_s / p.seconds - 1:+.1%}{' *' if p.is_disturbed else ''}",
                "-"
                if p.predicted_by_host_s is None
                else f"{p.predicted_by_host_s / p.seconds - 1:+.1%}",
            )
            for p in points
            if p.predicted_s is not None
        ),
        note="One decode step. *: the row is marked as disturbed. by host() alone: the error "
        "without what was timed again beside the row.",
    )


def host_table(points: Sequence[Point]) -> Table:
    """What emu.host() had measured when the rows were predicted."""
    rows = [
        (
            memory["name"],
            p.dtype,
            mb(memory["capacity_bytes"]),
            "-" if memory["gone_bytes"] is None else mb(memory["gone_bytes"]),
            *_speeds(memory, p.dtype),
            us(p.host["per_kernel_s"]),
            us(p.host["per_step_s"]),
        )
        for p in points
        for memory in p.host.get("memories", ())
    ]
    reads = tuple(f"GB/s at {figures(n / 1e6)} MB" for n in READS)
    return Table(
        title="What emu.host() measured of this machine",
        columns=(
            "memory",
            "dtype",
            "MB",
            "gone at MB",
            *reads,
            "GB/s at best",
            "kernel µs",
            "step µs",
        ),
        rows=tuple(dict.fromkeys(rows)),
        note="MB: what the memory holds; of a cache, the largest set of bytes that stays, and the "
        "one of which nearly nothing does. GB/s: of weights that stream into products, by the "
        "bytes of one read, with what calling the product costs. kernel and step: what starting a "
        "small kernel and a jitted step costs.",
    )


def drift_table(points: Sequence[Point]) -> Table:
    """What became of the reads that were timed again while the rows were."""
    reads: dict[tuple[str, str, int], list[Mapping[str, Any]]] = {}
    for one in _reads(points):
        reads.setdefault((one["memory"], one["dtype"], one["read_bytes"]), []).append(one)
    rows = []
    for (memory, dtype, size), found in reads.items():
        factors = [one["then_s"] / one["now_s"] for one in found]
        then = gb_per_s(float(np.median([size / one["then_s"] for one in found])))
        now = gb_per_s(float(np.median([size / one["now_s"] for one in found])))
        told = (figures(n) for n in (min(factors), float(np.median(factors)), max(factors)))
        rows.append((memory, dtype, figures(size / 1e6), then, now, *told))
    return Table(
        title="How this machine drifted from what emu.host() had measured",
        columns=(
            "memory",
            "dtype",
            "read MB",
            "then GB/s",
            "now GB/s",
            "lowest now/then",
            "median",
            "highest",
        ),
        rows=tuple(rows),
        note="then: as emu.host() timed this read; now: the same read, timed by turns with the "
        "steps of each size, as the median over sizes. Each size is predicted from its own.",
    )


def _speeds(memory: Mapping[str, Any], dtype: str) -> tuple[str, ...]:
    """GB/s of each of `READS`, then the best."""
    if not memory["read_bytes"]:
        return ("-",) * (len(READS) + 1)
    curve = Curve(
        dtype=dtype,
        read_bytes=tuple(memory["read_bytes"]),
        bytes_per_s=tuple(memory["bytes_per_s"]),
        source="the row",
        kind="measured",
    )
    return (*(gb_per_s(n / curve.seconds(n)) for n in READS), gb_per_s(max(curve.bytes_per_s)))
