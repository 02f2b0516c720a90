"""Follows logical axes through the program: after an equation's cost rule has run, its results get
their axes, and the entries that it wrote on the tape say what they are spread over.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from emu.axes import Dims, Ids, together
from emu.axis_table import Followed, find_axis_rule
from emu.tape import Entry, Tape
from emu.values import Buffer, Lookup, Value

# Primitives whose results are those of a body that was read in place, axes and all.
_IN_PLACE = {
    "call", "call_hi_primitive", "checkpoint", "closed_call", "composite", "cond", "core_call",
    "custom_fusion", "custom_jvp_call", "custom_linear_solve", "custom_partitioning",
    "custom_vjp_call", "custom_vmap_call", "eval_jaxpr", "jit", "linear_call", "pjit", "remat",
    "remat2", "run_scoped", "scan", "shard_map", "while", "xla_metadata_call",
}  # fmt: skip


def with_axes(tape: Tape, value: Value) -> Value:
    """The value; with axes of its own, if it has none."""
    if value.constant or (value.axes is not None and len(value.axes) == len(value.shape.dims)):
        return value
    value = named(tape, value, tape.factors.fresh(value.shape.dims))
    return dataclasses.replace(value, pointing={}) if value.shape.integer else value


def named(tape: Tape, value: Value, axes: Dims | None) -> Value:
    """The value with these axes, which are those of the memory that it alone is in, too."""
    if axes is None or not value.sources:
        return value if value.axes is None else dataclasses.replace(value, axes=None)
    for s in value.sources:
        tensor = s.tensor
        if isinstance(tensor, Buffer):
            if tensor.shape.dims == value.shape.dims:
                tape.axes.setdefault(tensor, axes)
        elif (
            isinstance(tensor, Lookup)
            and tensor.axes is None
            and tensor.shape.dims == value.shape.dims
        ):
            tensor.axes = axes
    return dataclasses.replace(value, axes=axes)


def follow(
    site: Any, name: str | None, values: Sequence[Value], results: Sequence[Value], mark: int
) -> list[Value]:
    """The results of an equation with their axes; entries from `mark` on are marked too.

    `name`: of what it calls, if a caller's rule was applied to it.
    """
    tape: Tape = site.tape
    entries = [entry for entry in tape.entries[mark:] if entry.axes is None]
    if not entries and all(result.constant for result in results):
        return list(results)
    rule = find_axis_rule(site.name, name)
    if rule is None:
        kept = name is not None or site.name in _IN_PLACE
        outs = [with_axes(tape, r if kept else _nameless(r)) for r in results]
        needed = together(ids for v in values if v.axes for ids in v.axes)
        _mark(entries, Followed(outs=(), axes=(), whole=needed))
        return outs
    found: Followed = rule(site, *values)
    _mark(entries, found)
    outs = [named(tape, result, axes) for result, axes in zip(results, found.outs, strict=True)]
    pointing = next((v.pointing for v in values if v.pointing is not None), None)
    if pointing is None:
        return outs
    return [
        dataclasses.replace(out, pointing=pointing) if out.shape.integer else out for out in outs
    ]


def _nameless(value: Value) -> Value:
    return value if value.axes is None else dataclasses.replace(value, axes=None)


def _mark(entries: Sequence[Entry], found: Followed) -> None:
    if not entries:
        return
    axes = found.axes
    if axes is None:
        axes = together(ids for dims in found.outs for ids in dims)
    for entry in entries:
        entry.axes = axes
        entry.summed = found.summed
        entry.indexed = _with_picked(entry, found.indexed)
        entry.whole = found.whole
        if found.written is not None:
            entry.writes = [
                dataclasses.replace(t, axes=found.written, parts=())
                if t.axes or entry.kind == "update"
                else t
                for t in entry.writes
            ]


def _with_picked(entry: Entry, indexed: Ids) -> Ids:
    """And the stacks of experts of which it reads those that a router picked."""
    picked = [t.picked.axes for t in entry.reads if t.picked is not None]
    return together((indexed, *picked)) if picked else indexed
