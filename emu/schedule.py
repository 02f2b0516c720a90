"""A placed work as arrays: one row a kernel, columns by memory, dtype and collective.

This is all that the clock has to know, and none of it depends on the system's numbers, so that it
is made once for a (work, placement) and then serves any number of systems. Ops that run as one
kernel are one row; what rides along (dequantisation in a product's operand) is counted with the
kernel after it. Rows are kept in *runs*: (first row, last row, repeats). A loop's body is one run,
and so are equal layers written out one after the other, found by comparing their rows. A loop over
stacked layers that live in several memories is several runs, one for each residency.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Hashable, Iterator, Sequence

import numpy as np

from emu.errors import EmuError
from emu.placement import Placement
from emu.repeats import repeats_in
from emu.rules import nearest
from emu.windows import Array, Run, ends_apart, windows
from emu.work import Access, Collective, Op, Work

KINDS = ("weights", "cache", "activations")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One kernel, in one run of it."""

    bytes: tuple[tuple[float, ...], ...]  # [kind][memory], read and written
    flops: tuple[tuple[str, bool, int], ...]  # (dtype, whether of products, FLOPs)
    collective: Collective | None
    launched: bool  # a kernel of its own, not what rides along with another
    ops: tuple[Op, ...]

    @property
    def key(self) -> Hashable:
        """Equal for rows that take equally long."""
        return self.bytes, self.flops, self.collective, self.launched


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Schedule:
    """See the module. A step is `calls` times all runs; arrays have a row for each kernel."""

    rows: tuple[Row, ...]
    runs: tuple[Run, ...]
    calls: int
    repeats: Array  # [rows]: how often each runs in one of the calls
    bytes: Array  # [kinds, rows, memories]
    flops: Array  # [rows, flop_kinds]
    flop_kinds: tuple[tuple[str, bool], ...]  # (dtype, whether of products)
    launched: Array  # [rows] of 0 and 1
    collectives: tuple[Collective, ...]  # that send anything, each once
    exchanges: Array  # [rows, collectives] of 0 and 1
    # Bytes of weights [rows, memories] that a port may be ahead by when a row's arithmetic begins
    # and when it ends: those of the kernels looked ahead to, at most a whole call's.
    ahead_at_begin: Array
    ahead_at_end: Array
    notes: tuple[str, ...] = ()

    @functools.cached_property
    def times(self) -> Array:
        """How often each row runs in the whole step."""
        return self.calls * self.repeats

    @functools.cached_property
    def groups(self) -> tuple[int, ...]:
        """How many ranks exchange data with each other, each number once."""
        return tuple(dict.fromkeys(sent.group for sent in self.collectives))


def schedule(work: Work, placement: Placement, depth: int | None) -> Schedule:
    """The arrays of a work whose leaves live where the placement says.

    depth: kernels ahead of the running one whose weights are fetched; None: any number.
    """
    memories = [memory.name for memory in placement.system.chip.memories]
    homes = _homes(placement, memories)
    parts: list[tuple[list[Row], int]] = []
    rows: list[Row] = []
    runs: list[Run] = []
    for kernels, count in _loops(work.ops):
        body = [_Kernel(ops, homes, len(memories), placement) for ops in kernels]
        edges = sorted({edge for kernel in body for edge in kernel.edges(count)} | {0, count})
        for begin, end in itertools.pairwise(edges):
            made = [kernel.row(begin / count, end / count) for kernel in body]
            parts.append((made, end - begin))
    if not parts:
        raise EmuError("the work has no operations: there is nothing to time")
    calls = math.gcd(*(times for _, times in parts))
    for made, times in parts:
        once = times == calls
        found = repeats_in([row.key for row in made]) if once else [(0, len(made), times // calls)]
        for start, stop, repeats in found:
            runs.append(Run(start=len(rows), stop=len(rows) + stop - start, repeats=repeats))
            rows += made[start:stop]
    if depth:
        rows, runs = ends_apart(rows, runs, depth)
    return _arrays(work, rows, runs, calls, depth, len(memories))


def _arrays(
    work: Work,
    rows: Sequence[Row],
    runs: Sequence[Run],
    calls: int,
    depth: int | None,
    memories: int,
) -> Schedule:
    flop_kinds = sorted({(dtype, dot) for row in rows for dtype, dot, _ in row.flops})
    sent = list(dict.fromkeys(c for row in rows if (c := row.collective) and c.bytes))
    flops = np.zeros((len(rows), len(flop_kinds)))
    exchanges = np.zeros((len(rows), len(sent)))
    repeats = np.zeros(len(rows))
    for run in runs:
        repeats[run.start : run.stop] = run.repeats
    for i, row in enumerate(rows):
        for dtype, dot, count in row.flops:
            flops[i, flop_kinds.index((dtype, dot))] += count
        if row.collective in sent:
            exchanges[i, sent.index(row.collective)] = 1.0
    held = np.array([row.bytes for row in rows]).reshape(-1, 3, memories).transpose(1, 0, 2)
    at_begin, at_end = windows(held[0], runs, depth)
    return Schedule(
        rows=tuple(rows),
        runs=tuple(runs),
        calls=calls,
        repeats=repeats,
        bytes=held,
        flops=flops,
        flop_kinds=tuple(flop_kinds),
        launched=np.array([float(row.launched) for row in rows]),
        collectives=tuple(sent),
        exchanges=exchanges,
        ahead_at_begin=at_begin,
        ahead_at_end=at_end,
        notes=work.notes,
    )


def _loops(ops: Sequence[Op]) -> Iterator[tuple[list[list[Op]], int]]:
    """Neighbouring kernels that run equally often: (their ops by kernel, how often)."""
    body: list[list[Op]] = []
    count = 0
    for kernel in _kernels(ops):
        if body and kernel[-1].count != count:
            yield body, count
            body = []
        count = kernel[-1].count
        body.append(kernel)
    if body:
        yield body, count


def _kernels(ops: Sequence[Op]) -> Iterator[list[Op]]:
    """Ops by kernel, riders with the kernel after them that runs as often as they do."""
    open_ops: list[Op] = []
    for op in (op for op in ops if op.count):
        before = open_ops[-1] if open_ops else None
        riding = before is not None and before.kernel is None
        together = before is not None and (riding or before.kernel == op.kernel)
        if before is not None and not (together and before.count == op.count):
            yield open_ops
            open_ops = []
        open_ops.append(op)
    if open_ops:
        yield open_ops


_Homes = dict[str, list[tuple[float, float, int]]]


def _homes(placement: Placement, memories: Sequence[str]) -> _Homes:
    """Of each leaf, the parts (from, to, memory) of its leading axis, in entries."""
    homes: _Homes = {}
    for part in placement.residencies:
        length = part.leaf.shape[0] if part.leaf.shape else 1
        span = part.rows if part.rows is not None else range(length)
        homes.setdefault(part.leaf.path, []).append(
            (float(span.start), float(max(span.stop, 1)), memories.index(part.memory))
        )
    return homes


class _Kernel:
    """The ops of one kernel, and where what they touch lives."""

    def __init__(self, ops: list[Op], homes: _Homes, memories: int, placement: Placement) -> None:
        self.ops, self.homes, self.memories = ops, homes, memories
        self.scratch = [m.name for m in placement.system.chip.memories].index(placement.activations)
        self.accesses = [access for op in ops for access in (*op.reads, *op.writes)]
        for access in self.accesses:
            if access.kind != "activations" and access.tensor not in homes:
                raise EmuError(
                    f"the work touches {access.tensor!r}, which the placement does not place"
                    + nearest(access.tensor, homes)
                    + "; place the work that you predict, or one with the same leaves"
                )

    def edges(self, count: int) -> Iterator[int]:
        """At which repeats of a loop the memory changes that a stacked leaf is read from."""
        for access in self.accesses:
            parts = self.homes.get(access.tensor, ())
            if access.rows is None or len(parts) < 2 or count == 1:
                continue
            first, last = access.rows
            for start, _, _ in parts:
                if first < start < last:
                    at = (start - first) * count / (last - first)
                    yield from (math.floor(at), math.ceil(at))

    def row(self, begin: float, end: float) -> Row:
        """The kernel in the part [begin, end) of its repeats, both from 0 to 1."""
        held = [[0.0] * self.memories for _ in KINDS]
        for access in self.accesses:
            for memory, share in self._shares(access, begin, end):
                held[KINDS.index(access.kind)][memory] += share * access.bytes
        flops: dict[tuple[str, bool], int] = {}
        for op in self.ops:
            for dtype, count in op.flops.items():
                key = (dtype, op.kind in ("dot", "convolution"))
                flops[key] = flops.get(key, 0) + count
        return Row(
            bytes=tuple(tuple(kind) for kind in held),
            flops=tuple((*key, count) for key, count in sorted(flops.items())),
            collective=next((op.collective for op in self.ops if op.collective), None),
            launched=any(op.kernel is not None for op in self.ops),
            ops=tuple(self.ops),
        )

    def _shares(self, access: Access, begin: float, end: float) -> Iterator[tuple[int, float]]:
        """(memory, share of the access) in a part of the repeats."""
        if access.kind == "activations":
            yield self.scratch, 1.0
            return
        parts = self.homes[access.tensor]
        if len(parts) == 1:
            yield parts[0][2], 1.0
            return
        low, high = access.rows if access.rows is not None else (parts[0][0], parts[-1][1])
        low, high = low + begin * (high - low), low + end * (high - low)
        for start, stop, memory in parts:
            inside = min(stop, high) - max(start, low)
            if inside > 0:
                yield memory, inside / (high - low)
