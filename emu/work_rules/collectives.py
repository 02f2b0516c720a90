"""shard_map, and the exchanges between devices inside it.

Inside, shapes are those of one device's shard, and so are all counts: the ops are what each device
does. A collective's bytes are what one device puts in (for an all-gather: what it ends up with).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from emu import views as algebra
from emu.axes import Dims
from emu.costs import own_rule
from emu.errors import EmuError
from emu.following import named
from emu.interpreter import Site, interpret
from emu.jaxprs import Shape, opened
from emu.values import Buffer, Value, constant, of_buffer
from emu.work import Collective

Kind = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "permute"]


@own_rule("shard_map")
def shard_map(site: Site, *values: Value) -> list[Value]:
    """The body, once on each device."""
    mesh = {str(axis): int(n) for axis, n in site.params["mesh"].shape.items()}
    inner, _ = opened(site.params["jaxpr"])
    shards = [
        _shard(v, Shape(dims=tuple(int(n) for n in var.aval.shape), dtype=v.shape.dtype), i, site)
        for i, (v, var) in enumerate(zip(values, inner.invars, strict=True))
    ]
    with site.tape.within(site.scope[len(site.tape.scope) :].strip("/"), mesh):
        outs = interpret(site.params["jaxpr"], shards, site.tape, site.needed)
    return [
        _unsharded(site, out, shape, shards, values)
        for out, shape in zip(outs, site.outs, strict=True)
    ]


def _shard(value: Value, shape: Shape, argument: int, site: Site) -> Value:
    """One device's part of a value."""
    part = algebra.sliced(value, shape, ("shard", id(site.eqn), argument))
    return dataclasses.replace(part, axes=_kept(site, value, shape))


def _kept(site: Site, value: Value, shape: Shape) -> Dims | None:
    """The logical axes of a value's dimensions; of those of another length, new ones."""
    if value.axes is None:
        return None
    new = site.tape.factors.fresh(shape.dims)
    lengths = zip(value.axes, new, value.shape.dims, shape.dims, strict=True)
    return tuple(ids if n == m else other for ids, other, n, m in lengths)


def _unsharded(
    site: Site, out: Value, shape: Shape, shards: list[Value], values: tuple[Value, ...]
) -> Value:
    """What the devices' parts are together: the same leaf again, or activations."""
    for shard, value in zip(shards, values, strict=True):
        if out.same_place(shard):
            return dataclasses.replace(value, shape=shape)
    if out.constant:
        return constant(shape)
    out = site.in_memory(out)
    site.tape.leave(out)
    buffer = site.tape.buffer(shape)
    site.tape.born[buffer] = len(site.tape.entries)
    for s in out.sources:
        if isinstance(s.tensor, Buffer):
            site.tape.homes.setdefault(s.tensor, buffer)
    return named(site.tape, of_buffer(buffer), _kept(site, out, shape))


@own_rule(
    "psum", "psum_invariant", "pmax", "pmin", "unreduced_psum", "unreduced_pmax", "unreduced_pmin"
)
def all_reduce(site: Site, *values: Value) -> list[Value]:
    """Every device gets the sum (or maximum) over its group; an op per operand."""
    axes = site.params["axes"]
    return [
        _exchange(site, v, shape, kind="all_reduce", axes=axes, elements=v.shape.size)
        for v, shape in zip(values, site.outs, strict=True)
    ]


@own_rule("all_gather", "all_gather_invariant", "all_gather_reduced")
def all_gather(site: Site, *values: Value) -> list[Value]:
    """Every device gets all parts."""
    return [
        _exchange(
            site, v, shape, kind="all_gather", axes=site.params["axis_name"], elements=shape.size
        )
        for v, shape in zip(values, site.outs, strict=True)
    ]


@own_rule("reduce_scatter", "unreduced_reduce_scatter")
def reduce_scatter(site: Site, *values: Value) -> list[Value]:
    """Every device gets its part of the sum."""
    return [
        _exchange(
            site,
            v,
            shape,
            kind="reduce_scatter",
            axes=site.params["axis_name"],
            elements=v.shape.size,
        )
        for v, shape in zip(values, site.outs, strict=True)
    ]


@own_rule("all_to_all", "ragged_all_to_all")
def all_to_all(site: Site, value: Value, *_: Value) -> Value:
    """Every device sends a part to every other."""
    return _exchange(
        site,
        value,
        site.outs[0],
        kind="all_to_all",
        axes=site.params["axis_name"],
        elements=value.shape.size,
    )


@own_rule("ppermute")
def ppermute(site: Site, *values: Value) -> list[Value]:
    """Every device sends to one other."""
    return [
        _exchange(
            site, v, shape, kind="permute", axes=site.params["axis_name"], elements=v.shape.size
        )
        for v, shape in zip(values, site.outs, strict=True)
    ]


@own_rule("pbroadcast", "pbroadcast_dynamic")
def pbroadcast(site: Site, *values: Value) -> list[Value]:
    """One device's value goes to all: charged as an all-gather of it."""
    axes = site.params.get("axis_name", site.params.get("axes"))
    return [
        _exchange(site, v, shape, kind="all_gather", axes=axes, elements=shape.size)
        for v, shape in zip(values, site.outs, strict=True)
    ]


def _exchange(
    site: Site, value: Value, shape: Shape, *, kind: Kind, axes: Any, elements: int
) -> Value:
    group = _group_size(site, axes)
    if group == 1:
        return dataclasses.replace(value, shape=shape)
    size = -(-elements * shape.bits // 8)
    collective = Collective(kind=kind, bytes=size, group=group)
    flops = {}
    if kind in ("all_reduce", "reduce_scatter") and shape.floating:
        flops = {shape.dtype: elements * (group - 1) // group}
    if value.constant:
        return constant(shape)
    made = site.emit(
        "collective",
        [site.in_memory(value)],
        outs=[shape],
        flops=flops,
        fuse="alone",
        collective=collective,
    )[0]
    return dataclasses.replace(made, routing=value.routing)


def _group_size(site: Site, axes: Any) -> int:
    groups = site.params.get("axis_index_groups")
    if groups:
        return len(groups[0])
    names = axes if isinstance(axes, tuple | list | frozenset | set) else (axes,)
    mesh: Mapping[str, int] = site.tape.mesh
    size = 1
    for name in names:
        if isinstance(name, int):  # a dimension of the value, as vmap leaves it
            continue
        if str(name) not in mesh:
            raise EmuError(
                f"{site.name} {site.where}: no mesh axis {name!r} around it; "
                "trace the function inside jax.shard_map"
            )
        size *= mesh[str(name)]
    return size
