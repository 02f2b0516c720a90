"""Mutable references (`jax.new_ref`, and the blocks of a Pallas kernel): a read is a view of what
the reference holds, a write updates it in place.
"""

import dataclasses

from emu.costs import own_rule
from emu.following import named
from emu.interpreter import Site, interpret
from emu.jaxprs import Shape, opened, shape_of, with_constants_first
from emu.values import Cell, Count, Stored, Value, of_buffer
from emu.work_rules.updates import updated


@own_rule("new_ref", "ref", "mutable_array")
def new_ref(site: Site, value: Value) -> Value:
    """A reference to a copy of the value: no copy for activations and a (donated) cache."""
    value = site.in_memory(value)
    source = value.stored
    tensor = None if source is None else source.tensor
    if isinstance(tensor, Stored) and tensor.leaf.kind == "weights":
        value = site.emit("copy", [value], outs=[value.shape])[0]
    return Value(shape=site.outs[0], cell=Cell(content=value))


@own_rule("freeze", "ref_freeze", "unref")
def freeze(_site: Site, ref: Value) -> Value:
    """What a reference holds in the end."""
    return _content(ref)


@own_rule("get", "masked_load", "load")
def get(site: Site, ref: Value, *_: Value) -> Value:
    """A view of a reference's content, or of a part of it."""
    return _part(_content(ref), site.outs[0], id(site.eqn))


@own_rule("swap", "masked_swap", "store")
def swap(site: Site, ref: Value, value: Value, *_: Value) -> Value:
    """Overwrites a part of the content; gives what was there, which is only read if it is used."""
    assert ref.cell is not None
    before = _content(ref)
    new = updated(site, before, value, value.shape)
    ref.cell.content = named(site.tape, new, before.axes)
    return _part(before, site.outs[0], id(site.eqn))


@own_rule("addupdate")
def addupdate(site: Site, ref: Value, value: Value, *_: Value) -> list[Value]:
    """Adds to a part of the content."""
    assert ref.cell is not None
    before = _content(ref)
    new = updated(site, before, value, value.shape, combines=True)
    ref.cell.content = named(site.tape, new, before.axes)
    return []


@own_rule("run_scoped")
def run_scoped(site: Site, *values: Value) -> list[Value]:
    """A body with references of its own."""
    body = site.params["jaxpr"]
    inner, _ = opened(body)
    own = [scratch(site, shape_of(v.aval)) for v in inner.invars]
    consts = list(values)
    if len(inner.constvars) == len(consts):
        closed = with_constants_first(body)
        return interpret(closed, [*consts, *own], site.tape, site.needed)
    return interpret(body, [*consts, *own], site.tape, site.needed)


def scratch(site: Site, shape: Shape) -> Value:
    """A reference to memory of its own."""
    return Value(shape=shape, cell=Cell(content=of_buffer(site.tape.buffer(shape))))


def _content(ref: Value) -> Value:
    assert ref.cell is not None, "a reference without content"
    return ref.cell.content


def _part(content: Value, shape: Shape, region: int) -> Value:
    """A piece of a value, whose place in it is not followed: its share of the elements."""
    if content.shape == shape:
        return content
    rank = len(shape.dims)
    whole = max(1, content.shape.size)
    sources = []
    for s in content.sources:
        share: Count = -(-s.elements * shape.size // whole)
        sources.append(
            dataclasses.replace(
                s,
                extents=(1,) * rank,
                axes=(None,) * rank,
                scale=share,
                region=(*s.region, ("get", region)),
            )
        )
    return Value(shape=shape, sources=tuple(sources), computed=content.computed)
