"""What of a placed work grows with batch and context, as one array of numbers.

The clock needs of each kernel how many bytes it moves through each memory's port, its FLOPs, what
it exchanges. A `Counts` has them in columns that are linear in what the trace counted, so that
counts at one batch and context can be interpolated from those at others (`emu.design.cells`). What
no interpolation may change (which kernels there are, in which order, how often each runs) is the
`Layout`, which is hashable: two counts of equal layouts differ in their numbers alone.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from emu.errors import EmuError
from emu.placement import Placement
from emu.planning import Plan, plan_of
from emu.schedule import KINDS, Schedule
from emu.spreading import most_in_one_op, spread
from emu.work import Work

Array = Any  # NumPy's or JAX's


class Layout(NamedTuple):
    """What stays the same from one batch and context to another; see the module."""

    columns: tuple[str, ...]  # of `Counts.rows`
    runs: tuple[tuple[int, int, int], ...]  # first row, last row + 1, repeats
    calls: int
    launched: tuple[bool, ...]  # by row, as are the next two
    touched: tuple[tuple[bool, ...], ...]  # by memory: whether its latency is waited for
    crossing: tuple[bool, ...]  # over a mesh of cores
    flop_kinds: tuple[tuple[str, bool], ...]
    exchanges: tuple[tuple[str, int], ...]  # (kind, group)
    off_chip: tuple[int, ...]  # memories that are read ahead
    faster: tuple[tuple[int, ...], ...]  # of each memory, as in a `Plan`
    is_mesh: bool


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Counts:
    """See the module."""

    layout: Layout
    rows: Array  # [rows, columns]
    totals: Array  # in the order of `totals_of`

    def __post_init__(self) -> None:
        assert self.rows.shape == (len(self.layout.launched), len(self.layout.columns))


def totals_of(memories: int) -> tuple[str, ...]:
    """The names of `Counts.totals`: what is of the whole step, on the busiest or fullest rank."""
    return (
        "tokens",
        "routed_layers",
        # Of activations: alive at once in the whole work, and in one op of it and of one rank's.
        "alive",
        "largest",
        "largest_here",
        *(f"held/{m}" for m in range(memories)),
        *(f"traffic/{m}" for m in range(memories)),
    )


def counts_of(work: Work, placement: Placement) -> Counts:
    """The counts of a placed work under its system's stack.

    Raises EmuError where reads are timed by measured curves, which do not interpolate.
    """
    system = placement.system
    if any(memory.curves for memory in system.chip.memories):
        raise EmuError(
            f"design: {system.chip.name!r} has bandwidths measured by size of read, whose counts "
            "do not interpolate over batch and context: use emu.predict, point by point"
        )
    plan = plan_of(work, placement, system.software.prefetch_kernels)
    columns = _columns(plan)
    of = plan.schedule
    rows = np.stack([np.asarray(values, np.float64) for values in columns.values()], axis=-1)
    count = len(rows)
    crossing = np.zeros(count) if plan.regions is None else plan.regions.crossings
    runs = tuple((run.start, run.stop, run.repeats) for run in of.runs)
    kept = list(range(count))
    if not plan.off_chip:  # in any order, so that equal kernels are one
        each = np.column_stack((rows, of.launched, plan.touched.T, crossing))
        kept, runs = _alike(each, of.repeats)
    layout = Layout(
        columns=tuple(columns),
        runs=runs,
        calls=of.calls,
        launched=tuple(bool(of.launched[i]) for i in kept),
        touched=tuple(tuple(bool(one) for one in plan.touched[:, i]) for i in kept),
        crossing=tuple(bool(crossing[i]) for i in kept),
        flop_kinds=of.flop_kinds,
        exchanges=_exchanged(of),
        off_chip=plan.off_chip,
        faster=plan.faster,
        is_mesh=plan.regions is not None,
    )
    return Counts(
        layout=layout,
        rows=rows[kept],
        totals=np.array(
            [
                plan.tokens,
                plan.routed_layers,
                work.peak_activation_bytes,
                *_largest(work, placement),
                *_held(placement),
                *plan.traffic.values(),
            ],
            np.float64,
        ),
    )


def _alike(each: Array, repeats: Array) -> tuple[list[int], tuple[tuple[int, int, int], ...]]:
    """The first of all kernels that are equal, and a run for each, as often as all of them."""
    times: dict[bytes, float] = {}
    first: dict[bytes, int] = {}
    for i, row in enumerate(each):
        key = row.tobytes()
        times[key] = times.get(key, 0.0) + repeats[i]
        first.setdefault(key, i)
    runs = tuple((at, at + 1, round(times[key])) for at, key in enumerate(first))
    return list(first.values()), runs


def _columns(plan: Plan) -> dict[str, Array]:
    """Columns by name; those that are zero in every row are left out."""
    of = plan.schedule
    found: dict[str, Array] = {}
    for i in range(of.flops.shape[1]):
        found[f"flops/{i}"] = of.flops[:, i]
    for i, exchanged in enumerate(_exchanged(of)):
        found[f"sent/{i}"] = of.exchanges @ np.array(
            [float(c.bytes) if (c.kind, c.group) == exchanged else 0.0 for c in of.collectives]
        )
    found["stored"] = of.bytes[:2].sum((0, 2))
    for m in range(of.bytes.shape[2]):
        found[f"at_run/{m}"] = plan.port_bytes[m, 0]
        found[f"through/{m}"] = plan.port_bytes[m, 1]
        found[f"cache_through/{m}"] = plan.cache_bytes[m, 0]
        for kind, name in enumerate(KINDS):
            found[f"{name}/{m}"] = of.bytes[kind, :, m]
        if m in plan.off_chip:
            found[f"ahead_at_begin/{m}"] = plan.ahead[m][:, 0]
            found[f"ahead_at_end/{m}"] = plan.ahead[m][:, 1]
    found["unpacked"] = plan.unpacked
    found["starts_late"] = plan.starts_late
    if plan.regions is not None:
        found["vector_bytes"] = plan.regions.vector_bytes
        found["held"] = plan.regions.held_bytes
        found["whole"] = plan.regions.whole_bytes
    return {name: column for name, column in found.items() if np.any(column)}


def _exchanged(of: Schedule) -> tuple[tuple[str, int], ...]:
    return tuple(sorted({(one.kind, one.group) for one in of.collectives}))


def _largest(work: Work, placement: Placement) -> tuple[int, int]:
    """Activations of one op of the work, and of one rank's, at most: their ratio is that of those
    that are alive at once.
    """
    whole = most_in_one_op(work.ops)
    if placement.system.ranks is None or not whole:
        return 1, 1
    return whole, most_in_one_op(spread(work, placement.system, placement.splits).work.ops)


def _held(placement: Placement) -> list[int]:
    """Bytes of tensors in each memory of the fullest rank, or of the pool of a replica's chips."""
    names = [memory.name for memory in placement.system.chip.memories]
    if placement.system.ranks is None:
        return [placement.bytes_by_memory[name] for name in names]
    return [max(held[name] for held in placement.rank_bytes) for name in names]
