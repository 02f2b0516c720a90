"""Exchanges between devices: dimensions that keep their length keep their axes."""

from emu.axis_rules.elementwise import axes_of
from emu.axis_table import Followed, axis_rule
from emu.interpreter import Site
from emu.values import Value


@axis_rule(
    "psum", "psum_invariant", "pmax", "pmin", "unreduced_psum", "unreduced_pmax", "unreduced_pmin",
    "all_gather", "all_gather_invariant", "all_gather_reduced", "reduce_scatter",
    "unreduced_reduce_scatter", "ppermute", "pbroadcast",
)  # fmt: skip
def exchange(site: Site, *values: Value) -> Followed:
    """Each operand's own; what a device holds more or less of afterwards is another dimension."""
    outs = []
    for value, out in zip(values, site.outs, strict=True):
        new = site.tape.factors.fresh(out.dims)
        if len(out.dims) != len(value.shape.dims):
            outs.append(new)
            continue
        lengths = zip(axes_of(site, value), new, value.shape.dims, out.dims, strict=True)
        outs.append(tuple(ids if n == m else other for ids, other, n, m in lengths))
    return Followed(outs=outs)
