"""Matrix products: 2·batch·m·n·k FLOPs, in the dtype of the operands.

Operands are read where they are stored, dequantised on the way in. A ragged product (each group of
rows times its own expert's matrix) reads the experts that are expected to be touched.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from emu.costs import own_rule
from emu.interpreter import Site
from emu.jaxprs import Shape, bits_of
from emu.tape import Touch, touches
from emu.values import Routing, Value
from emu.work import Dot
from emu.work_rules.experts import distinct_experts, hinted_experts, picked_by


@own_rule("dot_general")
def dot_general(site: Site, left: Value, right: Value, *_: Value) -> Value:
    """[batch, m, k] by [batch, k, n]."""
    (left_k, right_k), (left_batch, right_batch) = dimensions(site.params["dimension_numbers"])
    dot = shape_of_dot(left.shape, right.shape, (left_k, right_k), (left_batch, right_batch))
    reads = [*touches(left, left_k), *touches(right, right_k)]
    return emit_dot(site, dot, reads, left.shape.dtype, right.shape.dtype)


@own_rule("scaled_dot", "scaled_matmul", "scaled_matmul_wrapper")
def scaled_dot(site: Site, left: Value, right: Value, *scales: Value) -> Value:
    """A product of block-scaled operands: the scales are read, applying them is the unit's."""
    numbers = site.params.get("dimension_numbers")
    if numbers is None:  # [batch, m, k] by [batch, n, k]
        numbers = (((2,), (2,)), ((0,), (0,)))
    (left_k, right_k), (left_batch, right_batch) = dimensions(numbers)
    dot = shape_of_dot(left.shape, right.shape, (left_k, right_k), (left_batch, right_batch))
    reads = [*touches(left, left_k), *touches(right, right_k)]
    reads += [t for scale in scales for t in touches(scale)]
    return emit_dot(site, dot, reads, left.shape.dtype, right.shape.dtype)


@own_rule("ragged_dot_general")
def ragged_dot_general(site: Site, left: Value, right: Value, sizes: Value, *_: Value) -> Value:
    """Rows in consecutive groups, each group times its own matrix (or, where the summed dimension
    is the ragged one, a product for each group).
    """
    numbers = site.params["ragged_dot_dimension_numbers"]
    (left_k, right_k), (left_batch, _) = dimensions(numbers.dot_dimension_numbers)
    ragged = int(numbers.lhs_ragged_dimensions[0])
    group = [int(d) for d in numbers.rhs_group_dimensions]
    k = _product(left.shape.dims[d] for d in left_k)
    batch = _product(left.shape.dims[d] for d in left_batch)
    m = left.shape.size // max(1, batch * k)
    held = _product(right.shape.dims[d] for d in group)
    n = right.shape.size // max(1, batch * k * held)
    reads = touches(left, left_k)
    if not group or ragged in left_k or ragged in left_batch:
        reads += touches(right, right_k)
    else:
        experts = _experts_touched(site, right, group[0], routing=sizes.routing, rows=m)
        reads += touches(experts, right_k)
    dot = Dot(batch=batch, m=m, n=n, k=k)
    return emit_dot(site, dot, reads, left.shape.dtype, right.shape.dtype)


def _experts_touched(
    site: Site, right: Value, axis: int, *, routing: Routing | None, rows: int
) -> Value:
    """The part of the experts' matrices that is read: the expected number of distinct ones."""
    held = right.shape.dims[axis]
    if routing is None:
        routing = Routing(experts=held, chosen=1)
        site.tape.note(
            f"ragged_dot {site.where}: its groups are not seen to come from a router: each of "
            f"{rows} rows is taken to pick one of {held} experts uniformly"
        )
    expected = distinct_experts(held, routing, rows)
    picked = picked_by(site, routing, rows, () if right.axes is None else right.axes[axis])
    sources = []
    for s in right.sources:
        extents = list(s.extents)
        if extents[axis] == held:
            hinted = hinted_experts(site, s)
            extents[axis] = min(held, expected if hinted is None else hinted)
        sources.append(dataclasses.replace(s, extents=tuple(extents), picked=picked))
    return dataclasses.replace(right, sources=tuple(sources))


def emit_dot(site: Site, dot: Dot, reads: Sequence[Touch], left: str, right: str) -> Value:
    """Write a product on the tape."""
    wider = left if bits_of(left) >= bits_of(right) else right
    each = 8 if wider.startswith("complex") else 2  # a complex product is four, and two sums
    flops = {wider: each * dot.batch * dot.m * dot.n * dot.k}
    return site.emit("dot", flops=flops, reads=reads, fuse="alone", dot=dot)[0]


def shape_of_dot(
    left: Shape,
    right: Shape,
    summed: tuple[Sequence[int], Sequence[int]],
    batched: tuple[Sequence[int], Sequence[int]],
) -> Dot:
    """The four sizes of a product."""
    batch = _product(left.dims[d] for d in batched[0])
    k = _product(left.dims[d] for d in summed[0])
    m = _product(n for d, n in enumerate(left.dims) if d not in (*summed[0], *batched[0]))
    n = _product(n for d, n in enumerate(right.dims) if d not in (*summed[1], *batched[1]))
    return Dot(batch=batch, m=m, n=n, k=k)


def dimensions(numbers: Any) -> Any:
    """((left k, right k), (left batch, right batch)) as plain ints."""
    return tuple(tuple([int(d) for d in side] for side in pair) for pair in numbers)


def _product(counts: Any) -> int:
    total = 1
    for n in counts:
        total *= int(n)
    return total
