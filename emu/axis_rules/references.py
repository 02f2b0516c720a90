"""Mutable references: what is read or written whole walks the entries of what they hold."""

from emu.axes import together
from emu.axis_rules.elementwise import axes_of
from emu.axis_table import Followed, axis_rule
from emu.interpreter import Site
from emu.values import Value


@axis_rule("get", "masked_load", "load", "freeze", "ref_freeze", "unref")
def get(site: Site, ref: Value, *_: Value) -> Followed:
    """A part has axes of its own."""
    return Followed(outs=[_held(site, ref)])


@axis_rule("swap", "masked_swap", "store")
def swap(site: Site, ref: Value, value: Value, *_: Value) -> Followed:
    """What is written and what was there."""
    new, held = axes_of(site, value), _held(site, ref)
    site.tape.factors.unify_all(new, held)
    return Followed(outs=[held], axes=together(new), written=together(new))


def _held(site: Site, ref: Value) -> tuple[tuple[int, ...], ...]:
    content = None if ref.cell is None else ref.cell.content
    out = site.outs[0].dims
    if content is None or content.axes is None or content.shape.dims != out:
        return site.tape.factors.fresh(out)
    return content.axes
