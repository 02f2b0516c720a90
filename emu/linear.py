"""What of a kernel's seconds is linear in a system's rates, as one product of matrices.

Most of what a kernel takes is a count times the seconds of one: FLOPs, bytes by memory, exchanges,
launches. A plan lays its counts out once as [quantities × rows, rates], so that a prediction makes
its system's rates and multiplies: one call instead of a dozen, each of which takes NumPy longer to
begin than to do.
"""

import itertools
from typing import Any, NamedTuple

import numpy as np

from emu.schedule import KINDS, Schedule

Array = Any  # NumPy's or JAX's


class Rates(NamedTuple):
    """Seconds of one of each thing that is counted."""

    byte: list[Any]  # through each memory's port
    cache_byte: list[Any]  # what one of the cache takes longer than another, by memory
    flop: list[Any]  # by kind
    exchange: list[Any]  # of each of the schedule's collectives
    entering: list[Any]  # one: a byte into the compute units
    launch: list[Any]  # one
    unpacked: list[Any]  # one: a weight
    late: list[Any]  # one: a kernel that starts later, for unpacking
    latency: list[Any]  # exposed, of each of `Linear.waited`


class Linear(NamedTuple):
    """The counts of a schedule's rows."""

    counts: Array  # [quantities * rows, rates], in the order of `Seconds` and of `Rates`
    memories: int
    rows: int
    waited: tuple[tuple[int, ...], ...]  # sets of memories: a row waits for the slowest of its set

    def seconds(self, rates: Rates, xp: Any) -> "Seconds":
        """Count times rate, summed up by quantity and row."""
        each = list(itertools.chain(*rates))
        row = np.array(each) if xp is np else xp.stack([xp.asarray(n, xp.float64) for n in each])
        found = xp.dot(self.counts, row).reshape(-1, self.rows)
        ports, kinds = 3 + self.memories, 3 + 2 * self.memories
        return Seconds(
            compute=found[0],
            exchange=found[1],
            entry=found[2],
            at_run=found[3:ports],
            in_all=found[ports:kinds],
            by_kind=found[kinds : kinds + len(KINDS)],
            before=found[-1],
        )


class Seconds(NamedTuple):
    """Seconds of each row, those of a mesh's cores as if each had the whole chip."""

    compute: Array  # [rows]
    exchange: Array  # [rows]
    entry: Array  # [rows]: stored operands' way into the compute units
    at_run: Array  # [memories, rows]: of each port, when a kernel runs
    in_all: Array  # [memories, rows]: and for what is fetched ahead
    by_kind: Array  # [kinds, rows]: bytes over the bandwidth of where they live
    before: Array  # [rows]: launch, unpacking and exposed latency


def linear_of(
    of: Schedule,
    *,
    port_bytes: Array,
    cache_bytes: Array,
    entering: Array,
    unpacked: Array,
    starts_late: Array,
    touched: Array,
) -> Linear:
    """The counts of a schedule and of what `emu.planning.Plan` has under these names."""
    memories, rows = touched.shape
    sets = [tuple(np.flatnonzero(one).tolist()) for one in touched.T]
    waited = tuple(sorted(set(sets)))
    widths = [memories, memories, of.flops.shape[1], of.exchanges.shape[1], 1, 1, 1, 1, len(waited)]
    ends = [0, *itertools.accumulate(widths)]
    at = Rates(*[range(*pair) for pair in itertools.pairwise(ends)])  # type: ignore[arg-type]
    counts = np.zeros((4 + 2 * memories + len(KINDS), rows, ends[-1]))
    counts[0][:, at.flop] = of.flops
    counts[1][:, at.exchange] = of.exchanges
    counts[2][:, at.entering] = entering[:, None]
    for j in range(memories):
        for quantity, through in zip((3 + j, 3 + memories + j), port_bytes[j], strict=True):
            counts[quantity][:, at.byte[j]] = through
            counts[quantity][:, at.cache_byte[j]] = cache_bytes[j, 0]
    counts[3 + 2 * memories : -1, :, at.byte] = of.bytes
    counts[-1][:, at.launch] = of.launched[:, None]
    counts[-1][:, at.unpacked] = unpacked[:, None]
    counts[-1][:, at.late] = starts_late[:, None]
    counts[-1][:, at.latency] = np.array([[one == s for s in waited] for one in sets], np.float64)
    return Linear(counts=counts.reshape(-1, ends[-1]), memories=memories, rows=rows, waited=waited)
