"""Slices and concatenations. A dimension kept whole keeps its axes; a part of one has new ones,
which turn out to be factors of the dimension where parts tile it evenly (`Factors.settle`).
"""

from emu.axes import Ids
from emu.axis_rules.elementwise import axes_of
from emu.axis_table import Followed, axis_rule
from emu.interpreter import Site
from emu.values import Value


@axis_rule("slice")
def slice_rule(site: Site, value: Value) -> Followed:
    """At a place known while tracing."""
    starts = [int(i) for i in site.params["start_indices"]]
    stops = [int(i) for i in site.params["limit_indices"]]
    strides = [int(i) for i in site.params["strides"] or (1,) * len(starts)]
    axes, factors = axes_of(site, value), site.tape.factors
    places = zip(axes, value.shape.dims, starts, stops, strides, strict=True)
    return Followed(outs=[tuple(factors.sliced(*place) for place in places)])


@axis_rule("split")
def split(site: Site, value: Value) -> Followed:
    """Consecutive slices along one dimension."""
    axes, factors = axes_of(site, value), site.tape.factors
    d, start = int(site.params["axis"]), 0
    outs = []
    for shape in site.outs:
        stop = start + shape.dims[d]
        part = factors.sliced(axes[d], value.shape.dims[d], start, stop, 1)
        outs.append((*axes[:d], part, *axes[d + 1 :]))
        start = stop
    return Followed(outs=outs)


@axis_rule("concatenate")
def concatenate(site: Site, *values: Value) -> Followed:
    """Along one dimension; the others are shared."""
    d, out = int(site.params["dimension"]), site.outs[0].dims
    factors = site.tape.factors
    parts: list[Ids | None] = []
    others = list(factors.fresh(out))
    for value in values:
        parts.append(None if value.axes is None else value.axes[d])
        for i, ids in enumerate(value.axes or ()):
            if i != d:
                factors.unify(others[i], ids)
    others[d] = factors.concatenated(parts, [v.shape.dims[d] for v in values])
    return Followed(outs=[tuple(others)])


@axis_rule("stack")
def stack(site: Site, *values: Value) -> Followed:
    """Along a new dimension."""
    out, factors = site.outs[0].dims, site.tape.factors
    place = int(site.params.get("axis", 0)) % len(out)
    rest = factors.fresh((*out[:place], *out[place + 1 :]))
    for value in values:
        if value.axes is not None:
            factors.unify_all(rest, value.axes)
    return Followed(outs=[(*rest[:place], factors.new(out[place]), *rest[place:])])


@axis_rule("unstack")
def unstack(site: Site, value: Value) -> Followed:
    """One dimension is gone."""
    axes = axes_of(site, value)
    place = int(site.params.get("axis", 0)) % len(axes)
    return Followed(outs=[(*axes[:place], *axes[place + 1 :])] * len(site.outs))
