"""The axes of this project's own native products (`kernels`)."""

from emu.axes import Ids, together
from emu.axis_rules.elementwise import axes_of
from emu.axis_table import Followed, axis_rule
from emu.interpreter import Site
from emu.values import Value
from kernels.products import ATTEND, MATVEC


@axis_rule("ffi_call", name=MATVEC)
def matvec(site: Site, x: Value, *operands: Value) -> Followed:
    """x [in] times matrices [out, in], each perhaps with a scale [out] behind it."""
    factors = site.tape.factors
    (width,) = axes_of(site, x)
    outs: list[tuple[Ids, ...]] = []
    for operand in operands:
        axes = axes_of(site, operand)
        if len(axes) == 1:
            factors.unify(axes[0], outs[-1][0])
            continue
        factors.unify(axes[1], width)
        outs.append((axes[0],))
    every = together((width, *(out for (out,) in outs)))
    return Followed(outs=outs, axes=every, summed=width)


@axis_rule("ffi_call", name=ATTEND)
def attend(site: Site, *values: Value) -> Followed:
    """One token's heads over the cache; see `kernels.attend` for the shapes."""
    q, key, value, keys, cached, *_ = (axes_of(site, v) for v in values)
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
        outs=[(q[0], value[1]), keys, cached],
        axes=every,
        summed=together((q[1], keys[2])),
        indexed=keys[2],
        written=written,
    )
