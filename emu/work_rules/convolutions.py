"""Convolutions: 2·(output elements)·(kernel elements per output), padding counted as data; FFTs by the
usual 5·n·log2(n) FLOPs of a complex transform of length n, and half of it for a real one.
"""

import math
from fractions import Fraction

from emu.costs import own_rule
from emu.interpreter import Site
from emu.tape import touches
from emu.values import Value


@own_rule("conv_general_dilated")
def conv_general_dilated(site: Site, data: Value, kernel: Value) -> Value:
    """Each output element is a dot over the kernel's window and its group's input features."""
    spec = site.params["dimension_numbers"].rhs_spec  # (out features, in features, *window)
    window = math.prod(kernel.shape.dims[d] for d in spec[1:])
    flops = {data.shape.dtype: 2 * site.outs[0].size * window}
    reads = [*touches(data), *touches(kernel)]
    return site.emit("convolution", flops=flops, reads=reads, fuse="alone")[0]


@own_rule("fft")
def fft(site: Site, value: Value) -> Value:
    """A transform over the last dimensions."""
    lengths = [int(n) for n in site.params["fft_lengths"]]
    points = math.prod(lengths)
    real = not (
        value.shape.dtype.startswith("complex") and site.outs[0].dtype.startswith("complex")
    )
    larger = max(value.shape.size, site.outs[0].size) if real else value.shape.size
    transforms = larger // max(1, points) if points else 0
    each = Fraction(5 * points) * Fraction(math.log2(points) if points > 1 else 0)
    flops = {
        "float64" if "128" in site.outs[0].dtype else "float32": _ceil(each / (1 + real))
        * transforms
    }
    return site.emit("fft", [site.in_memory(value)], flops=flops, fuse="alone")[0]


def _ceil(n: Fraction) -> int:
    return -(-n.numerator // n.denominator)
