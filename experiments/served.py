"""A traced decoder's work as serving software does it.

Our decoder writes attention as two products with a softmax between them, which is clear and needs
memory for every score. Serving software runs it as one kernel whose scores stay in registers
(FlashAttention, arXiv 2205.14135; flash-decoding for one token), and multiplies weights that are
stored in fp8 by activations in fp8, where the chip can. Weights' and cache's bytes, and the number
of FLOPs, are those that were traced.
"""

import dataclasses
from collections.abc import Iterator, Sequence

from emu.work import Op, Work


def as_served(work: Work) -> Work:
    """The work with attention in one kernel and products of fp8 weights in fp8."""
    in_fp8 = {
        leaf.path: leaf.dtype
        for leaf in work.leaves
        if leaf.kind == "weights"
        and leaf.dtype.startswith("float8_e4m3")
        and not leaf.path.endswith("_scale")
    }
    ops = list(work.ops)
    for first, last in _attentions(ops):
        ops[first : last + 1] = _one_kernel(ops[first : last + 1])
    ops = [_narrowed(op, in_fp8) for op in ops]
    alive = min(work.peak_activation_bytes, 2 * _most_in_one_kernel(ops))
    return dataclasses.replace(work, ops=tuple(ops), peak_activation_bytes=alive)


def _attentions(ops: Sequence[Op]) -> Iterator[tuple[int, int]]:
    """First and last op of each attention: two products or more without weights, one by one."""
    first = last = None
    for at, op in enumerate(ops):
        if op.kind != "dot":
            continue
        if not any(access.kind == "weights" for access in op.reads):
            if first is None or op.count != ops[first].count:
                first = at
            last = at
        else:
            if first is not None and last is not None and first < last:
                yield first, last
            first = last = None
    if first is not None and last is not None and first < last:
        yield first, last


def _one_kernel(ops: Sequence[Op]) -> list[Op]:
    """Ops that run as one kernel: activations come in at the first and leave at the last.

    A latent that is both keys and values is read once. With several products for the scores (latent
    attention's), the queries of all but the first are left out: a hundredth of what is read of the
    cache at the contexts that matter.
    """
    end = len(ops) - 1
    read: set[str] = set()
    fused = []
    for at, op in enumerate(ops):
        reads = [a for a in op.reads if a.tensor not in read]
        read |= {a.tensor for a in reads if a.kind == "cache"}
        fused.append(
            dataclasses.replace(
                op,
                kernel=ops[0].kernel,
                reads=tuple(a for a in reads if at == 0 or a.kind != "activations"),
                writes=tuple(a for a in op.writes if at == end or a.kind != "activations"),
            )
        )
    return fused


def _narrowed(op: Op, in_fp8: dict[str, str]) -> Op:
    if op.kind != "dot":
        return op
    dtype = next((in_fp8[a.tensor] for a in op.reads if a.tensor in in_fp8), None)
    if dtype is None:
        return op
    return dataclasses.replace(op, flops={dtype: sum(op.flops.values())})


def _most_in_one_kernel(ops: Sequence[Op]) -> int:
    """Most bytes of activations that one kernel reads and writes."""
    moved: dict[int | None, int] = {}
    for op in ops:
        sums = sum(a.bytes for a in (*op.reads, *op.writes) if a.kind == "activations")
        moved[op.kernel] = moved.get(op.kernel, 0) + sums
    return max(moved.values(), default=0)
