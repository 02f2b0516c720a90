"""What crossing a mesh of cores costs: the time of a wafer, which is not bytes over bandwidth.

On a chip whose cores are joined by a mesh (a `Link` of scope "on-chip"), every core reads its own
memory, and a layer lives on a region of the cores: as large a share of them as its tensors are of
all that the chip holds. A product in that region of s × s cores broadcasts its input over the
columns and adds up its output over the rows, one after the other,

    2·s·hop + (bytes in + bytes out) ÷ (lanes · B),    lanes ≤ s,

with `hop` seconds from core to core and B bytes per second through one port of a core. Lanes are
the links side by side over which a vector enters: the region's side at best, fewer where the
software streams it through fewer (`Stack.mesh_lanes`). Reductions (norms, softmax) cross the region
too, with nothing to carry but a number. Streaming from the region's memories and its arithmetic go
at the region's share of the chip.

Of several vectors in a step (sequences, drafts, tokens of a prompt) each follows the one before it
through the regions, as through the stages of a pipeline: the first crosses all of them, and the
last leaves so many turns of the slowest region later,

    step(V) = step(1) + (V - 1)·max over regions of what a vector takes of one,

where what is the longest is looked for in bytes that enter, in FLOPs, and in bytes that are read,
each by itself, so that what is predicted is not less than if one region were the slowest in all
three. How many vectors there are is taken from the first product with weights, the smaller side of
its result: too few where that is narrower than a step has tokens. Weights are read once, and what
goes from wafer to wafer is not overlapped.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np

from emu.chips import Link
from emu.jaxprs import bits_of
from emu.schedule import Row, Schedule
from emu.stacks import Stack
from emu.work import Access, Op, Work

Array = Any  # NumPy's or JAX's

_CROSSING = ("dot", "convolution", "reduction", "sort")


class Regions(NamedTuple):
    """What of a schedule's rows lies where on a mesh; arrays have a value for each row."""

    held_bytes: Array  # of tensors that the row's layer keeps in its region
    whole_bytes: Array  # of all that one chip holds
    crossings: Array  # 1 where the row's results depend on the whole region
    vector_bytes: Array  # into and out of its products, that a step waits for

    @property
    def share(self) -> Array:
        """Of the cores."""
        return share_of(self.held_bytes, self.whole_bytes, np)


def regions(of: Schedule, work: Work, stages: int) -> tuple[Regions, Schedule]:
    """Which part of a chip each row has for itself, where `stages` chips share the layers.

    Beside it the schedule with as much of its FLOPs and bytes as a step waits for.
    """
    stored = {leaf.path: leaf.bytes for leaf in work.leaves}
    held_bytes = np.zeros(len(of.rows))
    for run in of.runs:
        held: dict[str, float] = {}
        for row in of.rows[run.start : run.stop]:
            for op in row.ops:
                for access in (*op.reads, *op.writes):
                    if access.tensor in stored:
                        held[access.tensor] = stored[access.tensor] / _turns(access, op.count)
        held_bytes[run.start : run.stop] = sum(held.values())
    whole_bytes = np.full(len(of.rows), sum(stored.values()) / stages)
    vectors = _vectors(of, work)
    vector_bytes = np.array([_vector_bytes(row) for row in of.rows])
    slower = 1.0 / share_of(held_bytes, whole_bytes, np)
    weights, *others = of.bytes
    moving = np.sum(others, axis=(0, 2))
    computing = of.flops.sum(1)
    waited = [
        _waited_for(of, vectors, each)
        for each in (vector_bytes, slower * computing, slower * moving)
    ]
    found = Regions(
        held_bytes=held_bytes,
        whole_bytes=whole_bytes,
        crossings=np.array([float(_crosses(row)) for row in of.rows]),
        vector_bytes=waited[0] * vector_bytes,
    )
    read = np.stack((weights, *(waited[2][:, None] * kind for kind in others)))
    return found, dataclasses.replace(of, flops=waited[1][:, None] * of.flops, bytes=read)


def _vectors(of: Schedule, work: Work) -> Array:
    """How many follow one another through each row: the tokens that the step's first product takes
    in (experts', later, take each of them several times), and fewer in a prompt's head.
    """
    products = (op for op in work.ops if any(access.kind == "weights" for access in op.reads))
    tokens = next((some for op in products if (some := _entering(op))), 1)
    each = [max(map(_entering, row.ops)) for row in of.rows]
    return np.array([min(tokens, entering or tokens) for entering in each], np.float64)


def _entering(op: Op) -> int:
    """Vectors that a product takes in; 0 where there is none."""
    return 0 if op.dot is None else op.dot.batch * min(op.dot.m, op.dot.n)


def _waited_for(of: Schedule, vectors: Array, each: Array) -> Array:
    """[rows]: the share of all vectors' `each` that a step waits for: the first vector's in every
    region, and the others' in one turn of the region where theirs is most.
    """
    first = 1.0 / vectors
    others = (1.0 - first) * each
    longest = max(of.runs, key=lambda run: float(others[run.start : run.stop].sum()))
    shares, there = first.copy(), slice(longest.start, longest.stop)
    shares[there] += (1.0 - first[there]) / of.times[there]
    return shares


def share_of(held_bytes: Array, whole_bytes: Array, xp: Any) -> Array:
    """The share of a chip's cores that a region has: that of its tensors, at most all."""
    return xp.minimum(1.0, xp.maximum(1.0, held_bytes) / xp.maximum(1.0, whole_bytes))


def crossing_seconds(
    share: Array, crossings: Array, vector_bytes: Array, mesh: Link, stack: Stack, xp: Any
) -> Array:
    """Seconds in which vectors cross their row's region."""
    side = xp.sqrt((mesh.nodes or 1) * share)
    port = mesh.bandwidth_bytes_per_s.value / mesh.ports
    lanes = xp.maximum(1.0, xp.minimum(side, stack.mesh_lanes.value))
    hops = crossings * 2.0 * side * mesh.latency_s.value
    return hops + vector_bytes / (lanes * port)


def _turns(access: Access, count: int) -> int:
    """Among how many turns of a loop a stacked tensor is divided."""
    if access.rows is None or count < 2:
        return 1
    length = access.rows[1] - access.rows[0]
    return math.gcd(length, count) if length > 1 else 1


def _crosses(row: Row) -> bool:
    return any(op.kind in _CROSSING for op in row.ops)


def _vector_bytes(row: Row) -> float:
    """Of what the row's products take in and give out, in the operands' dtype."""
    return sum((_vector_of(op) for op in row.ops if op.dot is not None and op.flops), 0.0)


def _vector_of(op: Op) -> float:
    assert op.dot is not None
    dot, each = op.dot, max(map(bits_of, op.flops)) / 8
    few, many = sorted((dot.m, dot.n))
    if any(access.kind == "cache" for access in op.reads):
        # Scores stay with the keys that they are of: only queries and what is mixed travel.
        return each * dot.batch * few * min(many, dot.k)
    return each * dot.batch * few * (dot.k + many)
