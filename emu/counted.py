"""What a stack's overheads are counted by: tokens given, layers of experts, weights unpacked."""

import dataclasses
import math
from collections.abc import Mapping

from emu.chips import Chip
from emu.schedule import Row
from emu.work import Access, Op, Work

# Codes of four bits are packed in bytes: what they are is not seen in the leaf.
_BITS = {"int8": 8, "int4": 4, "uint4": 4, "uint8": 4}


def tokens_given(work: Work) -> int:
    """How many tokens' results the last product makes: one a sequence in a decode step."""
    last = next((op.dot for op in reversed(work.ops) if op.dot is not None), None)
    return 1 if last is None else last.batch * min(last.m, last.n)


def unpacked(row: Row, dtypes: Mapping[str, str], chip: Chip) -> float:
    """Weights stored as integers, or as codes, that one run of a kernel's products unpacks.

    Products in float4 take them as they are on chips that have such products.
    """
    as_they_are = "float4" in chip.peak_flops_per_s
    return sum(
        (
            8.0 * access.bytes / _BITS[dtypes[access.tensor]]
            for op in row.ops
            if op.kind == "dot" and not (as_they_are and _in_float4(op))
            for access in op.reads
            if access.kind == "weights" and dtypes[access.tensor] in _BITS
        ),
        0.0,
    )


def starts_late(row: Row, dtypes: Mapping[str, str]) -> bool:
    """Whether a kernel's products take such weights: they unpack them, or narrow activations to
    multiply in float4 (taken to delay a kernel alike).
    """
    return any(
        access.kind == "weights" and dtypes[access.tensor] in _BITS
        for op in row.ops
        if op.kind == "dot"
        for access in op.reads
    )


def _in_float4(op: Op) -> bool:
    return any(dtype.startswith("float4") for dtype in op.flops)


def layers_of_experts(work: Work) -> int:
    """Groups of products that read routed experts, one after the other."""
    layers, in_group = 0, False
    for op in work.ops:
        if op.kind != "dot":
            continue
        routed = any(access.routed is not None for access in op.reads)
        if routed and not in_group:
            layers += op.count
        in_group = routed
    return layers


def with_all_experts(work: Work) -> Work:
    """The work of a static schedule, which cannot know whom tokens are routed to: every step
    reads all experts.
    """
    ops = (dataclasses.replace(op, reads=tuple(map(_whole, op.reads))) for op in work.ops)
    return dataclasses.replace(work, ops=tuple(ops))


def with_repeated_heads(work: Work) -> Work:
    """The work where keys and values that heads share are read once for each of these heads."""
    in_weights = {
        axis for leaf in work.leaves if leaf.kind == "weights" for dim in leaf.axes for axis in dim
    }
    ops = (
        dataclasses.replace(
            op, reads=tuple(_repeated(access, op, in_weights, work) for access in op.reads)
        )
        if op.kind == "dot"
        else op
        for op in work.ops
    )
    return dataclasses.replace(work, ops=tuple(ops))


def _repeated(access: Access, op: Op, in_weights: set[int], work: Work) -> Access:
    if access.kind != "cache":
        return access
    sharing = (set(op.axes) - set(access.axes) - set(op.summed)) & in_weights
    times = math.prod(work.axes[axis].size for axis in sharing)
    return dataclasses.replace(
        access, bytes=access.bytes * times, axes=(*access.axes, *sorted(sharing))
    )


def _whole(access: Access) -> Access:
    of = access.routed
    if of is None:
        return access
    missed = (1 - of.chosen / of.experts) ** of.tokens
    return dataclasses.replace(access, bytes=round(access.bytes / (1 - missed)), routed=None)
