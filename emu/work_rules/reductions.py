"""Reductions, cumulative ops, sorts: the whole input is read.

A reduction of n elements to one is n - 1 FLOPs, a cumulative op one per element, a sort of n
elements n·ceil(log2 n) comparisons, which (with argmax and top-k) are not counted as FLOPs. What an
argmax, a top-k or a sort picks out of scores is remembered as a router's choice.
"""

import dataclasses

from emu.costs import own_rule
from emu.interpreter import Site
from emu.tape import Fuse
from emu.values import Routing, Value, constant
from emu.work_rules.elementwise import replace_routing, with_routing


@own_rule(
    "reduce_sum", "reduce_max", "reduce_min", "reduce_prod",
    "reduce_and", "reduce_or", "reduce_xor",
)  # fmt: skip
def reduce_rule(site: Site, value: Value) -> Value:
    """n elements to one: n - 1 FLOPs."""
    flops = value.shape.size - site.outs[0].size
    return with_routing(_reduced(site, [value], flops, "loop")[0], (value,))


@own_rule("reduce")
def custom_reduce(site: Site, *values: Value) -> list[Value]:
    """A reduction with the caller's own function, taken as one FLOP a step."""
    return _reduced(site, values, values[0].shape.size - site.outs[0].size, "loop")


@own_rule("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")
def cumulative(site: Site, value: Value) -> Value:
    """One FLOP per element."""
    return with_routing(_reduced(site, [value], value.shape.size, "alone")[0], (value,))


@own_rule(
    "reduce_window", "reduce_window_sum", "reduce_window_max", "reduce_window_min",
    "select_and_gather_add", "select_and_scatter_add", "select_and_scatter",
)  # fmt: skip
def windows(site: Site, *values: Value) -> list[Value]:
    """One FLOP per element of each window, less one."""
    window = 1
    for n in site.params["window_dimensions"]:
        window *= int(n)
    return _reduced(site, values, site.outs[0].size * (window - 1), "alone")


def _reduced(
    site: Site, values: tuple[Value, ...] | list[Value], flops: int, fuse: Fuse
) -> list[Value]:
    if all(v.constant for v in values):
        return [constant(shape) for shape in site.outs]
    out = site.outs[0]
    counted = {out.dtype: max(0, flops)} if out.floating else {}
    kind = "reduction" if fuse == "loop" else "cumulative"
    return site.emit(kind, [site.settle(v) for v in values], flops=counted, fuse=fuse)


@own_rule("argmax", "argmin")
def argmax(site: Site, value: Value) -> Value:
    """The best of each row: one of as many as the row is long."""
    (axis,) = site.params["axes"]
    if value.constant:
        return constant(site.outs[0])
    index = site.emit("reduction", [site.settle(value)])[0]
    return replace_routing(index, _choice(value, int(axis), 1))


@own_rule("top_k")
def top_k(site: Site, value: Value) -> list[Value]:
    """The k best of each row."""
    axis = int(site.params.get("axis", len(value.shape.dims) - 1))
    return _chosen(site, value, int(site.params["k"]), axis)


@own_rule("approx_top_k")
def approx_top_k(site: Site, value: Value) -> list[Value]:
    """The k best of each row, or nearly."""
    axis = int(site.params["reduction_dimension"])
    return _chosen(site, value, int(site.params["k"]), axis)


def _chosen(site: Site, value: Value, k: int, axis: int) -> list[Value]:
    if value.constant:
        return [constant(shape) for shape in site.outs]
    best, index = site.emit("sort", [site.in_memory(value)], fuse="alone")
    return [best, dataclasses.replace(index, routing=_choice(value, axis, k))]


def _choice(value: Value, axis: int, chosen: int) -> Routing:
    """Indices into one dimension of a value."""
    logical = () if value.axes is None else value.axes[axis]
    return Routing(experts=value.shape.dims[axis], chosen=chosen, axes=logical)


@own_rule("sort")
def sort(site: Site, *values: Value) -> list[Value]:
    """Rows put in order; the other operands go along."""
    if all(v.constant for v in values):
        return [constant(shape) for shape in site.outs]
    inputs = [site.in_memory(v) for v in values]
    outs = site.emit("sort", inputs, fuse="alone")
    axis = int(site.params["dimension"])
    n = values[0].shape.dims[axis]
    by_score = values[0].shape.floating
    routed = next((v.routing for v in values if v.routing is not None), None)
    if routed is not None:  # of what goes along: positions point into no axis of experts
        routed = dataclasses.replace(routed, axes=())
    marked = []
    for value, out in zip(values, outs, strict=True):
        if out.shape.floating:
            marked.append(out)
        elif by_score and value.constant:  # positions in the order of their scores
            marked.append(replace_routing(out, _choice(values[0], axis, n)))
        else:
            marked.append(replace_routing(out, value.routing or routed))
    return marked
