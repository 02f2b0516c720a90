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

    def row(self, xp: Any) -> Array:
        """All of them, [rates]."""
        each = list(itertools.chain(*self))
        return np.array(each) if xp is np else xp.stack([xp.asarray(n, xp.float64) for n in each])


class Linear(NamedTuple):
    """The counts of a schedule's rows."""

    counts: Array  # [quantities * rows, rates], in the order of `Seconds` and of `Rates`
    rows: int
    ports: tuple[int, ...]  # memories whose port anything passes
    off_chip: tuple[int, ...]  # those that fetch weights ahead
    waited: tuple[tuple[int, ...], ...]  # sets of memories: a row waits for the slowest of its set

    def seconds(self, rates: Array, xp: Any) -> "Seconds":
        """Count times rate (`Rates.row`), summed up by quantity and row."""
        found = xp.dot(self.counts, rates).reshape(-1, self.rows)
        kinds = 3 + len(self.ports) + len(self.off_chip)
        compute, exchange, entry, *of_ports = found[:kinds]
        at_run, in_all = of_ports[: len(self.ports)], of_ports[len(self.ports) :]
        return Seconds(compute, exchange, entry, at_run, in_all, found[kinds:-1], found[-1])


class Seconds(NamedTuple):
    """Seconds of each row, those of a mesh's cores as if each had the whole chip."""

    compute: Array  # [rows]
    exchange: Array  # [rows]
    entry: Array  # [rows]: stored operands' way into the compute units
    at_run: list[Array]  # [ports] of [rows]: of each port, when a kernel runs
    in_all: list[Array]  # [off_chip] of [rows]: and for what is fetched ahead
    by_kind: Array  # [kinds, rows]: bytes over the bandwidth of where they live
    before: Array  # [rows]: launch, unpacking and exposed latency


def linear_of(
    of: Schedule,
    *,
    port_bytes: Array,
    off_chip: tuple[int, ...],
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
    ports = tuple(j for j in range(memories) if port_bytes[j].any())
    widths = [memories, memories, of.flops.shape[1], of.exchanges.shape[1], 1, 1, 1, 1, len(waited)]
    ends = [0, *itertools.accumulate(widths)]
    at = Rates(*[range(*pair) for pair in itertools.pairwise(ends)])  # type: ignore[arg-type]
    counts = np.zeros((4 + len(ports) + len(off_chip) + len(KINDS), rows, ends[-1]))
    counts[0][:, at.flop] = of.flops
    counts[1][:, at.exchange] = of.exchanges
    counts[2][:, at.entering] = entering[:, None]
    through = [(j, port_bytes[j, 0]) for j in ports] + [(j, port_bytes[j, 1]) for j in off_chip]
    for quantity, (j, passing) in enumerate(through, start=3):
        counts[quantity][:, at.byte[j]] = passing
        counts[quantity][:, at.cache_byte[j]] = cache_bytes[j, 0]
    counts[-len(KINDS) - 1 : -1, :, at.byte] = of.bytes
    counts[-1][:, at.launch] = of.launched[:, None]
    counts[-1][:, at.unpacked] = unpacked[:, None]
    counts[-1][:, at.late] = starts_late[:, None]
    counts[-1][:, at.latency] = np.array([[one == s for s in waited] for one in sets], np.float64)
    return Linear(
        counts=np.asfortranarray(counts.reshape(-1, ends[-1])),
        rows=rows,
        ports=ports,
        off_chip=off_chip,
        waited=waited,
    )
