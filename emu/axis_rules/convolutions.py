"""Convolutions: batch and features are followed, windows are not; nor is a transform's own axis."""

from emu.axes import together
from emu.axis_rules.elementwise import axes_of
from emu.axis_table import Followed, axis_rule
from emu.interpreter import Site
from emu.values import Value


@axis_rule("conv_general_dilated")
def conv_general_dilated(site: Site, data: Value, kernel: Value) -> Followed:
    """Sums over input features, unless they are in groups."""
    numbers = site.params["dimension_numbers"]
    (batch, features, *_), (out, inner, *_), (to_batch, to_features, *_) = (
        numbers.lhs_spec,
        numbers.rhs_spec,
        numbers.out_spec,
    )
    a, b = axes_of(site, data), axes_of(site, kernel)
    found = list(site.tape.factors.fresh(site.outs[0].dims))
    together_again = site.params["feature_group_count"] == site.params["batch_group_count"] == 1
    if together_again:
        found[to_batch], found[to_features] = a[batch], b[out]
        site.tape.factors.unify(a[features], b[inner])
    summed = b[inner] if together_again else ()
    needed = () if together_again else together((*a, *b))
    return Followed(
        outs=[tuple(found)], axes=together((*found, summed)), summed=summed, whole=needed
    )


@axis_rule("fft")
def fft(site: Site, value: Value) -> Followed:
    """The last dimensions are transformed, which takes all of them."""
    axes = axes_of(site, value)
    kept = len(axes) - len(site.params["fft_lengths"])
    new = site.tape.factors.fresh(site.outs[0].dims[kept:])
    return Followed(outs=[(*axes[:kept], *new)], whole=together(axes[kept:]))
