"""A traced decoder's work as serving software does it.

Our decoder writes attention as two products with a softmax between them, which is clear and needs
memory for every score. Serving software runs it as one kernel whose scores stay in registers
(FlashAttention, arXiv 2205.14135; flash-decoding for one token), and multiplies weights that are
stored in fp8 by activations in fp8, and those in mxfp4 or nvfp4 in float4, where the chip can; an
indexer's keys that are stored in fp8 too (DeepGEMM's fp8_mqa_logits), unlike attention's. What
it has one kernel for is one here: products of one input by several matrices, all that a layer
writes to the cache, all that is decided between a router's product and the first product of the
experts that it chose. Conversions and the arithmetic of indices ride along with the kernel that
uses them. Weights' and cache's bytes, and the
number of FLOPs, are those that were traced.
"""

import dataclasses
from collections.abc import Iterator, Sequence

from emu.work import Op, Work


def as_served(work: Work) -> Work:
    """The work with attention in one kernel and products of narrow floats in them."""
    narrow = _narrow_floats(work)
    ops = list(work.ops)
    for first, last in _attentions(ops):
        ops[first : last + 1] = _one_kernel(ops[first : last + 1])
    ops = _written_at_once(_side_by_side(_routed_at_once(_riding_along(ops))))
    ops = [_narrowed(op, narrow) for op in ops]
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


_CONVERSIONS = {"convert_element_type", "copy"}
_INDEXING = {"lt", "add", "select_n"}  # a negative index counts from the end


def _riding_along(ops: Sequence[Op]) -> list[Op]:
    """Conversions and arithmetic of indices belong to the kernel after them."""
    made = list(ops)
    for first, stop in _kernels(ops):
        names = {op.name for op in ops[first:stop]}
        stored = any(
            access.kind != "activations"
            for op in ops[first:stop]
            for access in (*op.reads, *op.writes)
        )
        alone = names <= _CONVERSIONS or names == _INDEXING
        if not stored and alone and stop < len(ops) and ops[stop].count == ops[first].count:
            made[first:stop] = [dataclasses.replace(op, kernel=None) for op in ops[first:stop]]
    return made


def _side_by_side(ops: Sequence[Op]) -> list[Op]:
    """Neighbouring products of one input by several matrices are one: q, k and v; gate and up."""
    made = list(ops)
    last: Op | None = None
    end = 0
    for first, stop in _kernels(ops):
        dots = [op for op in ops[first:stop] if op.kind == "dot"]
        stored = len(dots) == 1 and any(a.kind == "weights" for a in dots[0].reads)
        one = dots[0] if stored else None
        if one is not None and last is not None and _same_input(last, one):
            made[end:stop] = [dataclasses.replace(op, kernel=last.kernel) for op in made[end:stop]]
            one = last
        last, end = one, stop
    return made


def _same_input(one: Op, other: Op) -> bool:
    """Whether two products sum over the same entries, of the same tokens and experts."""
    experts = [{a.routed for a in op.reads if a.kind == "weights"} for op in (one, other)]
    inputs = [[a.axes for a in op.reads if a.kind == "activations"] for op in (one, other)]
    return (
        one.count == other.count
        and bool(one.summed)
        and set(one.summed) == set(other.summed)
        and experts[0] == experts[1]
        and (inputs[0] == inputs[1] or not inputs[0] or not inputs[1])
    )


def _routed_at_once(ops: Sequence[Op]) -> list[Op]:
    """What lies between a router's product and the experts' first is one kernel."""
    made = list(ops)
    before: int | None = None
    in_group = False
    for at, op in enumerate(ops):
        if op.kind != "dot":
            continue
        routed = any(access.routed is not None for access in op.reads)
        if routed and not in_group and before is not None and ops[before].count == op.count:
            own = op.kernel
            between = [i for i in range(before + 1, at) if made[i].kernel not in (None, own)]
            between = [i for i in between if made[i].kernel != ops[before].kernel]
            for i in between:
                made[i] = dataclasses.replace(made[i], kernel=made[between[0]].kernel)
        in_group = routed
        before = at
    return made


def _written_at_once(ops: Sequence[Op]) -> list[Op]:
    """Neighbouring kernels that write to the cache are one."""
    made = list(ops)
    last: int | None = None
    for first, stop in _kernels(ops):
        writes = any(access.kind == "cache" for op in ops[first:stop] for access in op.writes)
        if writes and last is not None and ops[last].count == ops[first].count:
            made[first:stop] = [
                dataclasses.replace(op, kernel=made[last].kernel) for op in made[first:stop]
            ]
        last = first if writes else None
    return made


def _kernels(ops: Sequence[Op]) -> list[tuple[int, int]]:
    """First op and the one after the last of each kernel that is one by its number."""
    found: list[tuple[int, int]] = []
    for at, op in enumerate(ops):
        first, stop = found[-1] if found else (0, 0)
        same = found and op.kernel is not None and ops[first].kernel == op.kernel
        if same and ops[first].count == op.count and stop == at:
            found[-1] = (first, at + 1)
        elif op.kernel is not None:
            found.append((at, at + 1))
    return found


def _narrow_floats(work: Work) -> dict[str, str]:
    """By weight: float8, or float4, two of which lie in a byte beside scales that are floats of 8
    bits (`models.formats`: scales of four-bit integers have 16). By indexer's keys: float8.
    """
    dtypes = {
        leaf.path: leaf.dtype
        for leaf in work.leaves
        if leaf.kind == "weights" or leaf.path.startswith("cache/index_keys/")
    }
    found = {}
    for path, dtype in dtypes.items():
        if path.endswith("_scale"):
            continue
        if dtype.startswith("float8_e4m3"):
            found[path] = dtype
        elif dtype == "uint8" and dtypes.get(f"{path}_scale", "").startswith("float8"):
            found[path] = "float4_e2m1fn"
    return found


def _narrowed(op: Op, narrow: dict[str, str]) -> Op:
    if op.kind != "dot":
        return op
    dtype = next((narrow[a.tensor] for a in op.reads if a.tensor in narrow), None)
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
