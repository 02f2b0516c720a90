"""What `emu.host()` found of the machine at hand, as a report."""

from pathlib import Path

from emu.chips import Chip, Curve
from emu.report import Report, Table
from emu.stacks import Stack

_MB, _GB = 1e6, 1e9


def page(chip: Chip, stack: Stack, path: Path) -> Report:
    """The machine's memories, and how fast reads of each size come from them.

    Args:
      chip: what `emu.host()` returned.
      stack: what `emu.host_stack()` did.
      path: of the file in which both are kept.
    """
    return Report(
        title=f"This machine: {chip.name}",
        answer=(
            f"A step costs {_us(stack.per_step_s.value)} beside its kernels, and each kernel "
            f"{_us(stack.per_kernel_s.value)} beside its reads.",
            f"Kept in {path}; `python -m emu.host --refresh` measures again.",
        ),
        figures=(),
        tables=(_memories(chip), _curves(chip)),
    )


def _us(seconds: float) -> str:
    """A difference of two timings: where it came out as none, other load hid it."""
    return f"{seconds * 1e6:.2f} µs" if seconds else "less than could be told from other load"


def _memories(chip: Chip) -> Table:
    sources: dict[str, list[str]] = {}
    for memory in chip.memories:
        sources.setdefault(memory.capacity_bytes.source, []).append(memory.name)
    known = "; ".join(f"{', '.join(names)}: {source}" for source, names in sources.items())
    return Table(
        title="Memories",
        columns=("memory", "class", "pair", "capacity MB", "GB/s"),
        rows=tuple(
            (
                memory.name,
                memory.placement,
                memory.mechanism or "",
                f"{memory.capacity_bytes.value / _MB:,.1f}",
                f"{memory.bandwidth_bytes_per_s.value / _GB:.1f}",
            )
            for memory in chip.memories
        ),
        note="pair: rotation is a cache against the memory behind it, memory-kind JAX's device "
        "against pinned_host, persistent-kernel a scratchpad against the memory behind it. "
        f"Capacity: what this process can use of it. Known from: {known}.",
    )


def _curves(chip: Chip) -> Table:
    return Table(
        title="Reads of weights, GB/s by the bytes of one read",
        columns=("memory", "dtype", "smallest", "GB/s", "fastest", "GB/s", "largest", "GB/s"),
        rows=tuple(
            (memory.name, curve.dtype, *_ends(curve))
            for memory in chip.memories
            for curve in memory.curves
        ),
        note="As a decode step reads them: a product of one vector with a matrix of that many "
        "bytes, in MB.",
    )


def _ends(curve: Curve) -> tuple[str, ...]:
    measured = list(zip(curve.read_bytes, curve.bytes_per_s, strict=True))
    shown = (measured[0], max(measured, key=lambda pair: pair[1]), measured[-1])
    return tuple(
        cell for size, speed in shown for cell in (f"{size / _MB:.2f}", f"{speed / _GB:.1f}")
    )
