"""Reshapes, transposes, broadcasts, slices: other views of the same elements, at no cost.

XLA fuses them into whatever reads them, or changes a layout; a physical copy that a backend might
make for a transpose is not modelled.
"""

import dataclasses

from emu import views as algebra
from emu.costs import own_rule
from emu.interpreter import Site
from emu.values import Routing, Value, constant
from emu.views import merged
from emu.work_rules.elementwise import with_routing

IDENTITY = (
    "copy", "copy_p", "device_put", "layout_constraint", "mesh_cast", "name",
    "optimization_barrier",
    "pcast", "pin", "pvary", "reduced_vary_cast", "reduced_vary_cast_p", "reshard", "relayout",
    "sharding_constraint", "stop_gradient", "unpin", "vary_unreduced_cast", "vary_unreduced_cast_p",
    "with_memory_space_constraint", "multiple_of", "random_wrap", "random_unwrap", "random_clone",
)  # fmt: skip


@own_rule(*IDENTITY)
def identity(site: Site, *values: Value) -> list[Value]:
    """Costs nothing: the same values, under other types at most."""
    return [
        v if v.shape == shape else dataclasses.replace(_resized(v, site), shape=shape)
        for v, shape in zip(values, site.outs, strict=True)
    ]


def _resized(value: Value, site: Site) -> Value:
    """A random key and its words are the same bytes under another number of dimensions."""
    shape = site.outs[0]
    rank = len(shape.dims)
    sources = tuple(
        dataclasses.replace(s, extents=(1,) * rank, axes=(None,) * rank, scale=s.elements)
        if len(s.extents) != rank
        else s
        for s in value.sources
    )
    return dataclasses.replace(value, sources=sources)


@own_rule("reshape")
def reshape(site: Site, value: Value, *_: Value) -> Value:
    """Costs nothing."""
    return algebra.reshaped(value, site.outs[0])


@own_rule("squeeze", "expand_dims")
def squeeze(site: Site, value: Value) -> Value:
    """Costs nothing."""
    return algebra.reshaped(value, site.outs[0])


@own_rule("transpose")
def transpose(site: Site, value: Value) -> Value:
    """Costs nothing."""
    return algebra.transposed(value, site.outs[0], [int(i) for i in site.params["permutation"]])


@own_rule("broadcast_in_dim")
def broadcast_in_dim(site: Site, value: Value, *_: Value) -> Value:
    """Costs nothing: what is broadcast is read once."""
    dims = [int(d) for d in site.params["broadcast_dimensions"]]
    return algebra.broadcast(value, site.outs[0], dims)


@own_rule("broadcast_to")
def broadcast_to(site: Site, value: Value) -> Value:
    """Costs nothing: what is broadcast is read once."""
    rank, new = len(value.shape.dims), len(site.outs[0].dims)
    return algebra.broadcast(value, site.outs[0], range(new - rank, new))


@own_rule("rev")
def rev(site: Site, value: Value) -> Value:
    """Costs nothing."""
    return dataclasses.replace(value, shape=site.outs[0])


@own_rule("iota", "empty", "empty2", "axis_index", "platform_index", "create_token", "after_all")
def made_of_nothing(site: Site, *_: Value) -> list[Value]:
    """Costs nothing: computed where it is used."""
    return [constant(shape) for shape in site.outs]


@own_rule("slice")
def slice_rule(site: Site, value: Value) -> Value:
    """Costs nothing: what reads it reads only the slice."""
    starts = tuple(int(i) for i in site.params["start_indices"])
    strides = tuple(site.params["strides"] or (1,) * len(starts))
    known = [s if stride == 1 else None for s, stride in zip(starts, strides, strict=True)]
    cut = algebra.sliced(value, site.outs[0], ("slice", starts, site.outs[0].dims, strides), known)
    return dataclasses.replace(cut, routing=_fewer(value, cut))


@own_rule("split")
def split(site: Site, value: Value) -> list[Value]:
    """Costs nothing: consecutive slices along one axis."""
    axis, start = int(site.params["axis"]), 0
    parts = []
    for shape in site.outs:
        starts = [0] * len(shape.dims)
        starts[axis] = start
        region = ("slice", tuple(starts), shape.dims, (1,) * len(starts))
        parts.append(algebra.sliced(value, shape, region, starts))
        start += shape.dims[axis]
    return parts


def _fewer(value: Value, cut: Value) -> Routing | None:
    """The first k of a router's sorted choices are k choices."""
    routing = value.routing
    if routing is None:
        return None
    for n, m in zip(value.shape.dims, cut.shape.dims, strict=True):
        if n == routing.chosen and m < n:
            return dataclasses.replace(routing, chosen=m)
    return routing


@own_rule("bitcast_convert_type", "bitcast")
def bitcast(site: Site, value: Value) -> Value:
    """Costs nothing: the same bytes read as other numbers."""
    out = site.outs[0]
    old, new = len(value.shape.dims), len(out.dims)
    if new == old:
        result = dataclasses.replace(value, shape=out)
    elif new == old + 1:  # each element is several
        result = algebra.broadcast(value, out, range(old))
    else:  # several elements are one
        result = algebra.without(value, out, old - 1)
    result = dataclasses.replace(result, computed=_lazy(value), known=None)
    return with_routing(result, (value,))


def _lazy(value: Value) -> bool:
    """Whether arithmetic on a value is put off until something reads it."""
    return value.view and not value.constant


@own_rule("concatenate")
def concatenate(site: Site, *values: Value) -> Value:
    """Pieces of the same stored tensor (two nibbles of a byte) stay a view; else it is copied."""
    out = site.outs[0]
    tensors = {frozenset(s.tensor for s in v.sources) for v in values}
    if all(v.view for v in values) and len(tensors) == 1:
        result = merged(out, values, computed=any(v.computed for v in values))
    else:
        result = site.emit("copy", [site.settle(v) for v in values])[0]
    columns = None
    if int(site.params["dimension"]) == len(out.dims) - 1:
        columns = tuple(v.constant for v in values for _ in range(v.shape.dims[-1]))
    result = dataclasses.replace(result, columns=columns)
    return with_routing(result, values)


@own_rule("stack")
def stack(site: Site, *values: Value) -> Value:
    """As `concatenate`, along a new axis."""
    out = site.outs[0]
    axis = int(site.params.get("axis", 0)) % len(out.dims)
    dims = [d for d in range(len(out.dims)) if d != axis]
    tensors = {frozenset(s.tensor for s in v.sources) for v in values}
    if all(v.view for v in values) and len(tensors) == 1:
        return merged(out, [algebra.broadcast(v, out, dims) for v in values], computed=True)
    return site.emit("copy", [site.settle(v) for v in values])[0]


@own_rule("unstack")
def unstack(site: Site, value: Value) -> list[Value]:
    """Costs nothing: slices of one along an axis, without it."""
    axis = int(site.params.get("axis", 0)) % len(value.shape.dims)
    parts = []
    for i, shape in enumerate(site.outs):
        dims = (*shape.dims[:axis], 1, *shape.dims[axis:])
        starts = [i if d == axis else 0 for d in range(len(dims))]
        one = dataclasses.replace(shape, dims=dims)
        region = ("slice", tuple(starts), dims, (1,) * len(dims))
        parts.append(algebra.without(algebra.sliced(value, one, region, starts), shape, axis))
    return parts


@own_rule("pad")
def pad(site: Site, value: Value, filler: Value) -> Value:
    """A copy with a border; of a stored tensor a view, since the border is not stored."""
    if value.view and filler.view:
        return dataclasses.replace(value, shape=site.outs[0], computed=_lazy(value), known=None)
    return site.emit("copy", [site.settle(value), site.settle(filler)])[0]


@own_rule("tile", "roll")
def tile(site: Site, value: Value, *_: Value) -> Value:
    """Costs nothing: read where it is used."""
    return dataclasses.replace(value, shape=site.outs[0], computed=_lazy(value))
