"""Gathers and dynamic slices: only the rows that are asked for are read.

At indices known ahead (constants, a loop's counter) a piece of a stored tensor is a view. At
indices known only at run time it is a *lookup*: a product reads the rows where they are stored
(experts' weights, pages of a cache), anything else first copies them out, once (an embedding). Of
rows chosen by a router, a product reads the expected number of distinct ones.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from emu import views as algebra
from emu.axes import Dims
from emu.costs import own_rule
from emu.interpreter import Site
from emu.jaxprs import Shape
from emu.tape import Touch, touches
from emu.values import Buffer, Count, Lookup, Routing, Source, Stored, Value
from emu.views import merged
from emu.work_rules.elementwise import with_routing
from emu.work_rules.experts import distinct_experts, hinted_experts, picked_by


@own_rule("dynamic_slice")
def dynamic_slice(site: Site, value: Value, *indices: Value) -> Value:
    """A slice whose start may be known only at run time."""
    out = site.outs[0]
    starts: list[int | None] = []
    for index, n, m in zip(indices, value.shape.dims, out.dims, strict=True):
        known = None if index.known is None else min(max(int(index.known), 0), n - m)
        starts.append(0 if n == m else known)
    cut = algebra.sliced(value, out, ("dynamic_slice", id(site.eqn)), starts)
    if all(index.constant for index in indices) or cut.constant:
        return with_routing(cut, (value,))
    return with_routing(looked_up(site, cut, cut, indices), (value,))


@own_rule("gather")
def gather(site: Site, value: Value, indices: Value) -> Value:
    """Slices of an operand at a matrix of indices."""
    where = Gather(site.params, value.shape, indices.shape, site.outs[0])
    if value.constant:
        return _from_a_table(site, where, value, indices)
    if not value.view:
        reads = [*(_part(where, t) for t in touches(site.settle(value))), *touches(indices)]
        result = site.emit("gather", reads=reads)[0]
        return with_routing(result, (value, indices))
    value = algebra.blurring(value, set(where.collapsed))
    asked = dataclasses.replace(
        value,
        shape=site.outs[0],
        known=None,
        sources=tuple(where.rows_of(site, s, None) for s in value.sources),
    )
    if indices.constant:
        return with_routing(asked, (value,))
    rows = tuple(where.rows_of(site, s, indices.routing, value.axes) for s in value.sources)
    distinct = dataclasses.replace(asked, sources=rows)
    return with_routing(looked_up(site, distinct, asked, [indices]), (value,))


def _from_a_table(site: Site, where: "Gather", table: Value, indices: Value) -> Value:
    """Codes looked up in a table of constants: elementwise on the codes."""
    if not indices.view:
        result = site.emit("gather", [site.settle(indices)])[0]
    else:
        spread = where.batch_like(indices)
        result = dataclasses.replace(spread, computed=not indices.constant)
    return with_routing(result, (table, indices))


def _part(where: "Gather", touch: Touch) -> Touch:
    """Of a buffer, no more elements than are asked for."""
    return dataclasses.replace(touch, elements=min(touch.elements, where.out.size))


def looked_up(site: Site, rows: Value, asked: Value, indices: Sequence[Value]) -> Value:
    """Rows to be decided by their first reader: `rows` (the distinct ones) are read in place by a
    product, or `asked` (every one) are copied out.
    """
    read = tuple(t for index in indices for t in touches(site.settle(index)))
    sources = []
    for s, origin in zip(rows.sources, asked.sources, strict=True):
        if isinstance(s.tensor, Buffer):
            sources.append(s)
            continue
        shape = dataclasses.replace(rows.shape, dtype=_dtype(s))
        site.emit("gather", outs=(), reads=read, real=False)
        entry = site.tape.entries[-1]
        lookup = Lookup(origin=origin, shape=shape, entry=entry, indices=read)
        sources.append(dataclasses.replace(s, tensor=lookup))
    return dataclasses.replace(rows, sources=tuple(sources))


def _is_of_weights(source: Source) -> bool:
    tensor = source.looked_into
    return isinstance(tensor, Stored) and tensor.leaf.kind == "weights"


def _dtype(source: Source) -> str:
    """The dtype in which a source is stored."""
    tensor = source.tensor
    if isinstance(tensor, Lookup):
        return tensor.shape.dtype
    return tensor.shape.dtype if isinstance(tensor, Buffer) else tensor.leaf.dtype


class Gather:
    """Which dimension of a gather's result comes from which of its operand and indices."""

    def __init__(self, params: Any, operand: Shape, indices: Shape, out: Shape) -> None:
        numbers = params["dimension_numbers"]
        self.operand, self.indices, self.out = operand, indices, out
        self.sizes = [int(n) for n in params["slice_sizes"]]
        self.mapped = [int(d) for d in numbers.start_index_map]
        collapsed = {int(d) for d in numbers.collapsed_slice_dims}
        batching = [int(d) for d in numbers.operand_batching_dims]
        index_batching = [int(d) for d in numbers.start_indices_batching_dims]
        offset = [int(d) for d in numbers.offset_dims]
        kept = [d for d in range(len(operand.dims)) if d not in collapsed and d not in batching]
        self.offset = dict(zip(offset, kept, strict=True))  # result's dimension: operand's
        positions = [d for d in range(len(out.dims)) if d not in self.offset]
        # result's dimension: the indices' (all but the last, which holds the index vectors)
        self.position = dict(zip(positions, range(len(indices.dims) - 1), strict=True))
        back = {i: d for d, i in self.position.items()}
        self.batch = {
            back[i]: d for i, d in zip(index_batching, batching, strict=True)
        }  # result's dimension: operand's
        self.collapsed = [d for d in sorted(collapsed) if d in self.mapped]

    @property
    def lookups(self) -> int:
        """Index vectors, for each entry of the batching dimensions."""
        count = 1
        for d in self.position:
            if d not in self.batch:
                count *= self.out.dims[d]
        return count

    def rows_of(
        self, site: Site, s: Source, routing: Routing | None, logical: Dims | None = None
    ) -> Source:
        """A source of the operand (of these logical axes), as it lies under the result."""
        scale, picked = s.scale, s.picked
        extents: list[Count] = [1] * len(self.out.dims)
        axes: list[int | None] = [None] * len(self.out.dims)
        for d, source_dim in self.offset.items():
            n, m = self.operand.dims[source_dim], self.sizes[source_dim]
            extents[d] = s.extents[source_dim] if n == m else min(s.extents[source_dim], m)
            axes[d] = s.axes[source_dim]
        for d, source_dim in self.batch.items():
            extents[d], axes[d] = s.extents[source_dim], s.axes[source_dim]
        limit: Count = 1
        for source_dim in self.collapsed:
            limit *= s.extents[source_dim]
        rows = min(self.lookups, limit) if self.collapsed else self.lookups
        routed = [d for d in self.mapped if routing and self.operand.dims[d] == routing.experts]
        if routing is not None and len(routed) == 1 and s.extents[routed[0]] > 1:
            hinted = hinted_experts(site, s)
            expected = distinct_experts(routing.experts, routing, self.lookups)
            rows = min(rows, expected if hinted is None else hinted)
            if _is_of_weights(s):  # tokens that are picked of a cache are no experts
                picked = picked_by(
                    site, routing, self.lookups, () if logical is None else logical[routed[0]]
                )
        places = [d for d in self.position if d not in self.batch]
        if places:
            extents[places[0]] = rows
        else:
            scale *= rows
        region = (*s.region, ("gather", id(site.eqn)))
        return dataclasses.replace(
            s, extents=tuple(extents), axes=tuple(axes), scale=scale, region=region, picked=picked
        )

    def batch_like(self, indices: Value) -> Value:
        """The indices under the result's shape: what reading the result reads of them."""
        rank = len(self.out.dims)
        sources = []
        for s in indices.sources:
            extents: list[Count] = [1] * rank
            for d, i in self.position.items():
                extents[d] = s.extents[i]
            extra = s.extents[-1]
            sources.append(
                dataclasses.replace(
                    s, extents=tuple(extents), axes=(None,) * rank, scale=s.scale * extra
                )
            )
        return merged(self.out, [Value(shape=self.out, sources=tuple(sources))], computed=True)
