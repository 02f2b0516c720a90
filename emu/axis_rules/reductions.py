"""Reductions sum over axes; sorts, choices and cumulative ops need all entries of one."""

from emu.axes import together
from emu.axis_rules.elementwise import axes_of, shared
from emu.axis_table import Followed, axis_rule
from emu.interpreter import Site
from emu.values import Value


@axis_rule(
    "reduce_sum", "reduce_max", "reduce_min", "reduce_prod",
    "reduce_and", "reduce_or", "reduce_xor",
)  # fmt: skip
def reduce_rule(site: Site, value: Value) -> Followed:
    """The dimensions reduced over are gone."""
    axes = axes_of(site, value)
    gone = [int(d) for d in site.params["axes"]]
    kept = tuple(ids for d, ids in enumerate(axes) if d not in gone)
    return Followed(outs=[kept], axes=together(axes), summed=together(axes[d] for d in gone))


@axis_rule("reduce")
def custom_reduce(site: Site, *values: Value) -> Followed:
    """As `reduce_sum`, of several arrays at once."""
    axes = shared(site, values, values[0].shape.dims)
    gone = [int(d) for d in site.params["dimensions"]]
    kept = tuple(ids for d, ids in enumerate(axes) if d not in gone)
    summed = together(axes[d] for d in gone)
    return Followed(outs=[kept] * len(site.outs), axes=together(axes), summed=summed)


@axis_rule("argmax", "argmin")
def argmax(site: Site, value: Value) -> Followed:
    """The best of each row, which has to be seen whole."""
    axes = axes_of(site, value)
    gone = [int(d) for d in site.params["axes"]]
    kept = tuple(ids for d, ids in enumerate(axes) if d not in gone)
    return Followed(outs=[kept], axes=together(axes), whole=together(axes[d] for d in gone))


@axis_rule("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")
def cumulative(site: Site, value: Value) -> Followed:
    """Each entry depends on those before it."""
    axes = axes_of(site, value)
    return Followed(outs=[axes], whole=axes[int(site.params["axis"])])


@axis_rule("sort")
def sort(site: Site, *values: Value) -> Followed:
    """The same entries in another order, which all of them decide."""
    axes = shared(site, values, values[0].shape.dims)
    return Followed(outs=[axes] * len(site.outs), whole=axes[int(site.params["dimension"])])


@axis_rule("top_k")
def top_k(site: Site, value: Value) -> Followed:
    """The k best of each row are an axis of their own."""
    return _chosen(site, value, int(site.params.get("axis", len(value.shape.dims) - 1)))


@axis_rule("approx_top_k")
def approx_top_k(site: Site, value: Value) -> Followed:
    """As `top_k`."""
    return _chosen(site, value, int(site.params["reduction_dimension"]))


def _chosen(site: Site, value: Value, d: int) -> Followed:
    axes = axes_of(site, value)
    best = (*axes[:d], site.tape.factors.new(site.outs[0].dims[d]), *axes[d + 1 :])
    return Followed(outs=[best] * len(site.outs), axes=together(axes), whole=axes[d])
