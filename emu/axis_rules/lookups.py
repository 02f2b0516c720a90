"""Gathers and dynamic slices pick entries of some axes; what is kept whole keeps its axes."""

from emu.axes import Ids, together
from emu.axis_rules.elementwise import axes_of
from emu.axis_table import Followed, axis_rule
from emu.interpreter import Site
from emu.values import Value
from emu.work_rules.lookups import Gather


@axis_rule("dynamic_slice")
def dynamic_slice(site: Site, value: Value, *_: Value) -> Followed:
    """A part of a dimension, wherever it starts, has axes of its own."""
    axes = axes_of(site, value)
    found: list[Ids] = []
    picked: list[Ids] = []
    for ids, n, m in zip(axes, value.shape.dims, site.outs[0].dims, strict=True):
        found.append(ids if n == m else site.tape.factors.new(m))
        if n != m:
            picked.append(ids)
    return Followed(outs=[tuple(found)], indexed=together(picked))


@axis_rule("gather")
def gather(site: Site, value: Value, indices: Value) -> Followed:
    """Rows have the axes of the indices and of what is taken whole of the operand."""
    where = Gather(site.params, value.shape, indices.shape, site.outs[0])
    axes, index, factors = axes_of(site, value), axes_of(site, indices), site.tape.factors
    found: list[Ids] = [()] * len(site.outs[0].dims)
    picked: list[Ids] = [axes[d] for d in where.collapsed]
    routing = indices.routing
    if routing is not None and routing.axes:
        chosen = [d for d in where.mapped if value.shape.dims[d] == routing.experts]
        if len(chosen) == 1:
            factors.unify(axes[chosen[0]], routing.axes)
    elif indices.pointing is not None and len(where.collapsed) == 1:
        (d,) = where.collapsed
        known = indices.pointing.setdefault(value.shape.dims[d], axes[d])
        factors.unify(axes[d], known)
    for d, i in where.position.items():
        found[d] = index[i]
    for d, source in where.batch.items():
        factors.unify(found[d], axes[source])
    for d, source in where.offset.items():
        kept = where.sizes[source] == value.shape.dims[source]
        found[d] = axes[source] if kept else factors.new(where.sizes[source])
        if not kept:
            picked.append(axes[source])
    return Followed(outs=[tuple(found)], indexed=together(picked))
