"""A chip with round numbers, and small works whose time can be told by hand."""

from emu.chips import Chip, Link, Memory, Sourced
from emu.stacks import IDEAL, Stack
from emu.work import Access, Collective, Leaf, Op, Work


def sourced(value):
    return Sourced(value=value, source="a test", kind="assumed")


def memory(name, placement, bandwidth, capacity=1e12, latency=0.0):
    return Memory(
        name=name,
        placement=placement,
        capacity_bytes=sourced(capacity),
        bandwidth_bytes_per_s=sourced(bandwidth),
        latency_s=sourced(latency),
    )


def chip(sram=1e4, hbm=1e3, peak=1e3, buffer=1e12, latency=0.0, hop=0.0, link=100.0, **more):
    """SRAM of 10 kB/s, HBM of 1 kB/s, 1 kFLOP/s."""
    return Chip(
        name="toy",
        vendor="nobody",
        memories=(
            memory("sram", "on-chip", sram, buffer, latency / 10),
            memory("hbm", "off-chip", hbm, latency=latency),
        ),
        peak_flops_per_s={"float32": sourced(peak), "bfloat16": sourced(2 * peak)},
        links=(
            Link(
                name="wire",
                bandwidth_bytes_per_s=sourced(link),
                latency_s=sourced(hop),
                topology="switch",
            ),
        ),
        **more,
    )


def stack(**numbers):
    depth = numbers.pop("prefetch_kernels", 0)
    fields = {name: sourced(value) for name, value in numbers.items()}
    held = {name: getattr(IDEAL, name) for name in IDEAL.__dataclass_fields__}
    return Stack(**{**held, **fields, "name": "toy stack", "prefetch_kernels": depth})


def op(leaf="w", read=0, flops=0, count=1, kernel=0, activations=0, rows=None, collective=None):
    reads = [Access(tensor=leaf, kind="weights", bytes=read, rows=rows)] if read else []
    if activations:
        reads.append(Access(tensor="activations", kind="activations", bytes=activations))
    return Op(
        name="dot_general",
        kind="collective" if collective else "dot",
        count=count,
        flops={"float32": flops} if flops else {},
        reads=tuple(reads),
        kernel=kernel,
        collective=Collective(**collective) if collective else None,
    )


def work(*costs, count=1):
    """One kernel for each (weight bytes, FLOPs), each with a leaf of its own."""
    ops = tuple(
        op(f"w{i}", read=read, flops=flops, count=count, kernel=i)
        for i, (read, flops) in enumerate(costs)
    )
    leaves = tuple(
        Leaf(path=f"w{i}", shape=(max(1, read),), dtype="int8") for i, (read, _) in enumerate(costs)
    )
    return Work(leaves=leaves, ops=ops)
