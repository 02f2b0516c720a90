"""Random bits: integer arithmetic (threefry's rounds), so no FLOPs; the bits are written where they
are not used at once.
"""

from emu.costs import own_rule
from emu.interpreter import Site
from emu.values import Value, constant


@own_rule(
    "random_bits", "random_seed", "random_split", "random_fold_in", "threefry2x32", "threefry4x32",
    "philox2x32", "philox4x32", "iota_2x32_shape", "rng_uniform",
)  # fmt: skip
def random_bits(site: Site, *values: Value) -> list[Value]:
    """Elementwise on a counter."""
    if all(v.constant for v in values):
        return [constant(shape) for shape in site.outs]
    return site.emit("random", [site.settle(v) for v in values])


@own_rule("rng_bit_generator", "random_gamma")
def generator(site: Site, *values: Value) -> list[Value]:
    """A kernel of its own: XLA's generator, or a loop of rejections (taken as one round)."""
    return site.emit("random", [site.in_memory(v) for v in values], fuse="alone")
