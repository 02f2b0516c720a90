"""Convolutions: 2·(output elements)·(kernel elements per output), padding counted as data; FFTs by
the usual 5·n·log2(n) FLOPs of a complex transform of length n, and half of it for a real one.
"""

import math

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
    points = math.prod(int(n) for n in site.params["fft_lengths"])
    shapes = (value.shape, site.outs[0])
    real = not all(shape.dtype.startswith("complex") for shape in shapes)
    transforms = max(shape.size for shape in shapes) // max(1, points)
    each = math.ceil(5 * points * math.log2(max(1, points)) / (2 if real else 1))
    double = any(shape.dtype in ("complex128", "float64") for shape in shapes)
    flops = {"float64" if double else "float32": each * transforms}
    return site.emit("fft", [site.in_memory(value)], flops=flops, fuse="alone")[0]
