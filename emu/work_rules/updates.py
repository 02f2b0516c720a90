"""Updates in place: dynamic_update_slice, scatter, a masked select into the cache.

Only the slice is written, into the tensor that it is a slice of: donated, as a serving loop donates
its cache. The result is the same tensor. The axis along which a cache leaf is updated at a position
known only at run time is its axis of tokens.
"""

import dataclasses
from collections.abc import Sequence

from emu.costs import own_rule
from emu.interpreter import Site
from emu.jaxprs import Shape
from emu.tape import Touch, touches
from emu.values import Buffer, Count, Source, Stored, Value, of_buffer, show_token_axis
from emu.work_rules.elementwise import elementwise, with_routing


@own_rule("dynamic_update_slice")
def dynamic_update_slice(site: Site, target: Value, update: Value, *indices: Value) -> Value:
    """Writes `update` at the indices."""
    shorter = [n > m for n, m in zip(target.shape.dims, update.shape.dims, strict=True)]
    moving = [short and not index.constant for short, index in zip(shorter, indices, strict=True)]
    fixed = [short and index.constant for short, index in zip(shorter, indices, strict=True)]
    _tell_token_axis(target, moving, fixed)
    return updated(site, target, update, update.shape, reads=list(indices))


@own_rule("scatter", "scatter-add", "scatter_add", "scatter-sub", "scatter-mul", "scatter-min",
          "scatter-max", "scatter_mul", "scatter_min", "scatter_max")  # fmt: skip
def scatter(site: Site, target: Value, indices: Value, update: Value) -> Value:
    """Writes, or combines, slices at a matrix of indices."""
    numbers = site.params["dimension_numbers"]
    mapped = [int(d) for d in numbers.scatter_dims_to_operand_dims]
    inserted = {int(d) for d in numbers.inserted_window_dims}
    batching = {int(d) for d in getattr(numbers, "operand_batching_dims", ())}
    window = [int(d) for d in numbers.update_window_dims]
    kept = [d for d in range(len(target.shape.dims)) if d not in inserted | batching]
    length = {d: update.shape.dims[w] for d, w in zip(kept, window, strict=True)}
    moving = [False] * len(target.shape.dims)
    for column, d in enumerate(mapped):
        fixed = indices.columns[column] if indices.columns is not None else indices.constant
        moving[d] = not fixed and length.get(d, 1) < target.shape.dims[d]
    _tell_token_axis(target, moving, [False] * len(moving))
    combines = site.name not in ("scatter",)
    result = updated(site, target, update, update.shape, reads=[indices], combines=combines)
    return with_routing(result, (target, indices, update))


@own_rule("select_n")
def select_n(site: Site, which: Value, *cases: Value) -> Value:
    """Elementwise; into a whole cache leaf it is an update that rewrites the leaf."""
    values = (which, *cases)
    for i, case in enumerate(cases):
        source = case.stored
        if source is None or not isinstance(source.tensor, Stored):
            continue
        others = (which, *cases[:i], *cases[i + 1 :])
        new = [v for v in cases[:i] + cases[i + 1 :] if not v.view]
        if source.tensor.leaf.kind == "cache" and new and not which.constant:
            size: Count = source.elements
            reads = [t for v in others for t in touches(site.settle(v))]
            touch = touches(case)[0]
            write = dataclasses.replace(touch, elements=size)
            site.emit("update", outs=(), reads=[*reads, touch], writes=[write], fuse="root")
            return case
    return elementwise(site, values, 0)


def updated(
    site: Site,
    target: Value,
    update: Value,
    part: Shape,
    *,
    reads: Sequence[Value] = (),
    combines: bool = False,
) -> Value:
    """The target after a part of it is overwritten with (or combined into) `update`."""
    if _put_back(target, update, reads):
        return target
    inputs = [site.settle(v) for v in (update, *reads)]
    touched = [t for v in inputs for t in touches(v)]
    flops = {part.dtype: part.size} if combines and part.floating else {}
    source = target.stored
    if source is not None:
        whole = touches(target)[0]
        write = dataclasses.replace(whole, elements=min(part.size, whole.elements))
        old = [write] if combines else []
        site.emit(
            "update", outs=(), flops=flops, reads=[*touched, *old], writes=[write], fuse="root"
        )
        return target
    target = site.settle(target)
    buffer = _whole_buffer(target)
    if buffer is None:  # constants, views with arithmetic: the rest has to be written too
        rest = touches(target)
        reads_all = [*touched, *rest]
        outs = [target.shape]
        return site.emit("update", outs=outs, flops=flops, reads=reads_all, fuse="root")[0]
    new = site.tape.buffer(target.shape, home=buffer)
    write = Touch(tensor=new, elements=min(part.size, target.shape.size))
    old = [Touch(tensor=buffer, elements=write.elements)] if combines else []
    site.emit("update", outs=(), flops=flops, reads=[*touched, *old], writes=[write], fuse="root")
    site.tape.entries[-1].after.append(buffer)
    return of_buffer(new)


def _put_back(target: Value, update: Value, indices: Sequence[Value]) -> bool:
    """Whether an update puts one entry of a stack (a layer's cache) back where it came from."""
    whole, part = target.stored, update.stored
    if (
        not indices
        or not all(index.constant for index in indices)
        or whole is None
        or part is None
        or whole.tensor is not part.tensor
        or part.rows is None
    ):
        return False
    place = indices[0].known
    if part.rows[1] - part.rows[0] != 1 or (place is not None and int(place) != part.rows[0]):
        return False
    return whole.axes[:1] == (0,) and update.shape.size * target.shape.dims[0] == target.shape.size


def _whole_buffer(value: Value) -> Buffer | None:
    """The buffer that a value is all of, if it is one."""
    if len(value.sources) != 1:
        return None
    source: Source = value.sources[0]
    if not isinstance(source.tensor, Buffer) or source.elements != source.tensor.shape.size:
        return None
    return source.tensor


def _tell_token_axis(target: Value, moving: Sequence[bool], fixed: Sequence[bool]) -> None:
    """Remember the cache leaf's axis along which this update moves."""
    for candidates in (moving, fixed):
        dims = [d for d, yes in enumerate(candidates) if yes]
        if len(dims) == 1:
            show_token_axis(target, dims[0])
            return
