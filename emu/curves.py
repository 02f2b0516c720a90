"""Reads whose time was measured by their size, at the edge of a cache too.

Where memories have curves (`emu.host()`), a product takes at least

    Σ over memories: (the share of its stored bytes that comes from there) × (what one read of all
    of them takes from there) - what the stack counts for starting a kernel, which the curve holds

and where a memory is a cache, a share of what is meant to stay in it comes from the memory behind:
none while a step's bytes fit, all when they are far too many. Between two readings of a byte all
others of the step pass, whether they are meant to stay or not, so that the whole step's bytes
decide. `Memory.capacity_bytes` says of how many bytes `edge.MISSING` are missing and its `high` of
how many `edge.GONE` are; the share is the straight line through the two.

Curves are of products that read all that they need themselves, one after the other, so that they
are for stacks that fetch nothing ahead.
"""

from typing import Any, NamedTuple

import numpy as np

from emu.chips import Curve, Memory
from emu.edge import GONE, MISSING
from emu.placement import Placement
from emu.schedule import Row, Schedule
from emu.system import System

Array = Any  # NumPy's or JAX's

_NARROWEST = 0.01  # of a capacity: no cache's edge is sharper


class Reads(NamedTuple):
    """What a schedule's products read of weights and cache; none of it is a system's number."""

    bytes: Array  # [rows], of all memories; 0 for rows that are no products
    shares: Array  # [rows, memories] of those bytes, by where they are placed
    dtypes: tuple[str, ...]  # [rows]: what most of them are stored in
    launched: Array  # [rows] of 0 and 1
    step_bytes: Array  # [memories]: placed there and read in a step


def reads_of(of: Schedule, placement: Placement) -> Reads:
    """The reads of a placed work's schedule."""
    leaves = {part.leaf.path: part.leaf.dtype for part in placement.residencies}
    products = np.array([float(any(dot for _, dot, _ in row.flops)) for row in of.rows])
    stored = of.bytes[:2].sum(0)
    total = stored.sum(1)
    return Reads(
        bytes=products * total,
        shares=stored / np.maximum(total, 1.0)[:, None],
        dtypes=tuple(_dtype(row, leaves) for row in of.rows),
        launched=of.launched,
        step_bytes=of.calls * (of.repeats @ stored),
    )


def least_seconds(reads: Reads, system: System, xp: Any = np) -> list[Array]:
    """Seconds [rows] that each product takes at least for what it reads, in a list for a maximum.

    Empty where no memory has curves, or where the stack fetches ahead.
    """
    memories = system.chip.memories
    if system.software.prefetch_kernels != 0 or not any(m.curves for m in memories):
        return []
    seconds = np.zeros(len(reads.bytes))
    for memory, share in zip(memories, _really_from(reads, memories, xp), strict=True):
        took = sum(
            np.array([d == dtype for d in reads.dtypes], np.float64)
            * _from(memory, dtype, reads.bytes, xp)
            for dtype in dict.fromkeys(reads.dtypes)
        )
        seconds = seconds + share * took
    return [xp.maximum(seconds - reads.launched * system.software.per_kernel_s.value, 0.0)]


def missing_share(memory: Memory, step_bytes: float, xp: Any = np) -> Any:
    """The share of a cache's bytes that is gone when it is read again; 0 for other memories.

    step_bytes: read through it from one reading to the next, whatever they live in.
    """
    if memory.mechanism != "rotation" or memory.placement != "on-chip":
        return 0.0
    held, gone = memory.capacity_bytes.value, memory.capacity_bytes.high
    width = xp.maximum((held if gone is None else gone) - held, _NARROWEST * held)
    return xp.clip(MISSING + (GONE - MISSING) * (step_bytes - held) / width, 0.0, 1.0)


def read_seconds(curve: Curve, read_bytes: Array, xp: Any = np) -> Array:
    """`Curve.seconds` for an array of sizes, through JAX too."""
    sizes = xp.stack([xp.asarray(n, np.float64) for n in curve.read_bytes])
    times = sizes / xp.stack([xp.asarray(n, np.float64) for n in curve.bytes_per_s])
    within = xp.exp(xp.interp(xp.log(np.maximum(read_bytes, 1.0)), xp.log(sizes), xp.log(times)))
    beyond = read_bytes * (times[-1] / sizes[-1])
    return (read_bytes > 0) * xp.where(read_bytes > sizes[-1], beyond, within)


def _really_from(reads: Reads, memories: tuple[Memory, ...], xp: Any) -> list[Array]:
    """Of each memory, the share [rows] of each row's bytes that comes from there."""
    shares = list(reads.shares.T)
    for i, memory in enumerate(memories):
        pair = [j for j, m in enumerate(memories) if m.mechanism == memory.mechanism]
        behind = [j for j in pair if memories[j].placement == "off-chip"]
        if behind:
            gone = missing_share(memory, sum(reads.step_bytes[j] for j in pair), xp)
            shares[behind[0]] = shares[behind[0]] + gone * reads.shares[:, i]
            shares[i] = shares[i] - gone * reads.shares[:, i]
    return shares


def _from(memory: Memory, dtype: str, read_bytes: Array, xp: Any) -> Array:
    """Seconds [rows] in which reads of these sizes stream from a memory."""
    for curve in memory.curves:
        if curve.dtype == dtype:
            return read_seconds(curve, read_bytes, xp)
    return read_bytes / memory.bandwidth_bytes_per_s.value


def _dtype(row: Row, leaves: dict[str, str]) -> str:
    held: dict[str, int] = {}
    for access in (access for op in row.ops for access in op.reads):
        if access.tensor in leaves:
            dtype = leaves[access.tensor]
            held[dtype] = held.get(dtype, 0) + access.bytes
    return max(held, key=lambda dtype: held[dtype]) if held else ""
