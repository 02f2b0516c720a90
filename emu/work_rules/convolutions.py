"""Convolutions: two FLOPs for each element of the kernel that meets one of the data, as XLA counts
them, so that neither padding nor the holes of a dilated input are multiplied; FFTs by the usual
5·n·log2(n) FLOPs of a complex transform of length n, and half of it for a real one.
"""

import math
from collections.abc import Sequence

import numpy as np

from emu.costs import own_rule
from emu.interpreter import Site
from emu.tape import touches
from emu.values import Value


@own_rule("conv_general_dilated")
def conv_general_dilated(site: Site, data: Value, kernel: Value) -> Value:
    """Each output element is a dot over the kernel's window and its group's input features."""
    numbers = site.params["dimension_numbers"]
    _, channels, *window = numbers.rhs_spec  # (out features, in features, *window)
    batch_and_features = [site.outs[0].dims[d] for d in numbers.out_spec[:2]]
    products = math.prod(batch_and_features) * kernel.shape.dims[channels]
    for axis, (at, of_data, of_out) in enumerate(
        zip(window, numbers.lhs_spec[2:], numbers.out_spec[2:], strict=True)
    ):
        products *= _meetings(
            data.shape.dims[of_data],
            kernel.shape.dims[at],
            site.outs[0].dims[of_out],
            stride=site.params["window_strides"][axis],
            padding=site.params["padding"][axis],
            data_dilation=site.params["lhs_dilation"][axis],
            kernel_dilation=site.params["rhs_dilation"][axis],
        )
    # Groups of the batch share out its outputs; each output still meets all of its kernel.
    flops = {data.shape.dtype: 2 * products}
    reads = [*touches(data), *touches(kernel)]
    return site.emit("convolution", flops=flops, reads=reads, fuse="alone")[0]


def _meetings(
    data: int,
    kernel: int,
    out: int,
    *,
    stride: int,
    padding: Sequence[int],
    data_dilation: int,
    kernel_dilation: int,
) -> int:
    """Along one axis: how many pairs of an output and a kernel element meet an element of data."""
    first = np.arange(out) * stride - padding[0]
    total = 0
    for k in range(kernel):
        at = first + k * kernel_dilation
        inside = (at >= 0) & (at <= (data - 1) * data_dilation) & (at % data_dilation == 0)
        total += int(inside.sum())
    return total


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
