"""Elementwise arithmetic: operands of the same shape walk the same entries."""

from collections.abc import Sequence

from emu.axes import Dims, Ids
from emu.axis_table import Followed, axis_rule
from emu.interpreter import Site
from emu.values import Value
from emu.work_rules.elementwise import ARITHMETIC, NO_FLOPS
from emu.work_rules.views import IDENTITY


def axes_of(site: Site, value: Value) -> Dims:
    """A value's axes; new ones for constants, which tie nothing to anything."""
    return site.tape.factors.fresh(value.shape.dims) if value.axes is None else value.axes


def shared(site: Site, values: Sequence[Value], dims: tuple[int, ...]) -> Dims:
    """The axes that values walk element by element; dimensions of length 1 spread."""
    factors = site.tape.factors
    found: list[Ids | None] = [None] * len(dims)
    for value in values:
        if value.axes is None or len(value.axes) != len(dims):
            continue
        for d, ids in enumerate(value.axes):
            if not ids:
                continue
            known = found[d]
            if known is None:
                found[d] = ids
            elif known != ids:
                factors.unify(known, ids)
    return tuple(factors.new(n) if ids is None else ids for n, ids in zip(dims, found, strict=True))


@axis_rule(*ARITHMETIC, *NO_FLOPS, "select_n")
def elementwise(site: Site, *values: Value) -> Followed:
    """Scalars spread."""
    return Followed(outs=[shared(site, values, site.outs[0].dims)])


@axis_rule(*IDENTITY)
def identity(site: Site, *values: Value) -> Followed:
    """Each value's own."""
    return Followed(
        outs=[
            axes_of(site, v) if v.shape.dims == out.dims else site.tape.factors.fresh(out.dims)
            for v, out in zip(values, site.outs, strict=True)
        ]
    )
