"""The axes of this project's own native products (`kernels`)."""

import dataclasses
from collections.abc import Sequence

from emu.axes import Dims, Ids, together
from emu.axis_rules.elementwise import axes_of
from emu.axis_table import Followed, axis_rule
from emu.interpreter import Site
from emu.values import Value
from kernels.products import ATTEND, ATTEND_IN_STACK, MATVEC, MATVEC_OF_STACK, RMS_NORM


@axis_rule("ffi_call", name=MATVEC)
def matvec(site: Site, x: Value, *operands: Value) -> Followed:
    """x [in] times matrices [out, in], each perhaps with a scale [out] behind it."""
    return _products(site, x, [axes_of(site, operand) for operand in operands])


@axis_rule("ffi_call", name=MATVEC_OF_STACK)
def matvec_of_stack(site: Site, x: Value, _layer: Value, *operands: Value) -> Followed:
    """As `matvec`, with a leading axis of layers, of which one is taken."""
    stacks = [axes_of(site, operand) for operand in operands]
    followed = _products(site, x, [axes[1:] for axes in stacks])
    return dataclasses.replace(followed, indexed=together(axes[0] for axes in stacks))


def _products(site: Site, x: Value, operands: Sequence[Dims]) -> Followed:
    factors = site.tape.factors
    (width,) = axes_of(site, x)
    outs: list[tuple[Ids, ...]] = []
    for axes in operands:
        if len(axes) == 1:
            factors.unify(axes[0], outs[-1][0])
            continue
        factors.unify(axes[1], width)
        outs.append((axes[0],))
    every = together((width, *(out for (out,) in outs)))
    return Followed(outs=outs, axes=every, summed=width)


@axis_rule("ffi_call", name=RMS_NORM)
def rms_norm(site: Site, x: Value, scale: Value) -> Followed:
    """Rows of x, each scaled by its own sum of squares and by a factor for each column."""
    axes, (columns,) = axes_of(site, x), axes_of(site, scale)
    site.tape.factors.unify(axes[-1], columns)
    return Followed(outs=[axes], axes=together(axes), summed=columns)


@axis_rule("ffi_call", name=ATTEND)
def attend(site: Site, *values: Value) -> Followed:
    """One token's heads over the cache; see `kernels.attend` for the shapes."""
    return _attend(site, values, stacked=False)


@axis_rule("ffi_call", name=ATTEND_IN_STACK)
def attend_in_stack(site: Site, *values: Value) -> Followed:
    """As `attend`, with a leading axis of layers before each cache's, of which one is taken."""
    return _attend(site, values, stacked=True)


def _attend(site: Site, values: Sequence[Value], *, stacked: bool) -> Followed:
    q, key, value, *caches = (axes_of(site, v) for v in values[:5])
    keys, cached = (axes[1:] for axes in caches) if stacked else caches
    factors = site.tape.factors
    heads, kv = values[0].shape.dims[0], values[1].shape.dims[0]
    groups = factors.split(q[0], (kv, heads // kv))
    if groups is not None:
        factors.unify(groups[0], key[0])
    for first, second in (
        (key[0], keys[1]), (key[0], value[0]), (key[0], cached[1]), (keys[2], cached[2]),
        (q[1], key[1]), (key[1], keys[3]), (value[1], cached[3]),
    ):  # fmt: skip
        factors.unify(first, second)
    every = together((*q, *keys, *cached))
    written = together((*key, *value))
    return Followed(
        outs=[(q[0], value[1]), *caches],
        axes=every,
        summed=together((q[1], keys[2])),
        indexed=together((keys[2], *(axes[0] for axes in caches if stacked))),
        written=written,
    )
