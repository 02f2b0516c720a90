"""Reshapes, transposes, broadcasts: the same axes, in another order or cut finer."""

from emu.axes import Dims, Ids
from emu.axis_rules.elementwise import axes_of
from emu.axis_table import Followed, axis_rule
from emu.interpreter import Site
from emu.values import Value
from emu.views import regrouped


@axis_rule("reshape", "squeeze", "expand_dims")
def reshape(site: Site, value: Value, *_: Value) -> Followed:
    """Dimensions are merged, and cut where they have to be."""
    return Followed(outs=[reshaped(site, value, site.outs[0].dims)])


def reshaped(site: Site, value: Value, new: tuple[int, ...]) -> Dims:
    """The axes of the same elements in row-major order under other dimensions."""
    axes, factors = axes_of(site, value), site.tape.factors
    found: list[Ids] = [()] * len(new)
    for olds, news in regrouped(value.shape.dims, new):
        if len(olds) == len(news) == 1:
            found[news[0]] = axes[olds[0]]
            continue
        lengths = [new[d] for d in news]
        flat = tuple(i for d in olds for i in axes[d])
        cut = factors.split(flat, lengths)
        for d, ids in zip(news, factors.fresh(lengths) if cut is None else cut, strict=True):
            found[d] = ids
    return tuple(found)


@axis_rule("transpose")
def transpose(site: Site, value: Value) -> Followed:
    """In another order."""
    axes = axes_of(site, value)
    return Followed(outs=[tuple(axes[int(d)] for d in site.params["permutation"])])


@axis_rule("broadcast_in_dim")
def broadcast_in_dim(site: Site, value: Value, *_: Value) -> Followed:
    """New dimensions have axes of their own."""
    return _broadcast(site, value, [int(d) for d in site.params["broadcast_dimensions"]])


@axis_rule("broadcast_to")
def broadcast_to(site: Site, value: Value) -> Followed:
    """As `broadcast_in_dim`, into the last dimensions."""
    rank, new = len(value.shape.dims), len(site.outs[0].dims)
    return _broadcast(site, value, list(range(new - rank, new)))


def _broadcast(site: Site, value: Value, places: list[int]) -> Followed:
    axes, new = axes_of(site, value), site.outs[0].dims
    found = list(site.tape.factors.fresh(new))
    for d, place in enumerate(places):
        if value.shape.dims[d] == new[place]:
            found[place] = axes[d]
    return Followed(outs=[tuple(found)])


@axis_rule("bitcast_convert_type", "bitcast")
def bitcast(site: Site, value: Value) -> Followed:
    """Elements cut into several are a last dimension, and the other way round."""
    axes, new = axes_of(site, value), site.outs[0].dims
    return Followed(outs=[(*axes, *site.tape.factors.fresh(new[len(axes) :]))[: len(new)]])


@axis_rule("rev")
def rev(site: Site, value: Value) -> Followed:
    """Entry i of a reversed dimension is another entry."""
    turned = {int(d) for d in site.params["dimensions"]}
    return _kept(site, value, turned)


@axis_rule("pad")
def pad(site: Site, value: Value, _: Value) -> Followed:
    """A dimension with a border is another one."""
    config = site.params["padding_config"]
    return _kept(site, value, {d for d, width in enumerate(config) if any(width)})


def _kept(site: Site, value: Value, changed: set[int]) -> Followed:
    """The same dimensions, but for some that are others."""
    new = site.tape.factors.fresh(site.outs[0].dims)
    axes = axes_of(site, value)
    return Followed(outs=[tuple(new[d] if d in changed else a for d, a in enumerate(axes))])
