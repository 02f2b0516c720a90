"""Which ops run as one kernel, and so which activations cross a memory.

Elementwise ops, reductions and lookups of activations join their producers' kernel, as XLA's loop
and input fusion do (softmax or a norm is one kernel, as XLA's GPU compiler makes it), as long as no
kernel outside has read from it: that rule cannot make two kernels wait for each other. An update in
place ends its kernel. Products, convolutions, sorts, collectives and foreign calls are kernels of
their own; what is done to a weight on its way into a product (dequantisation) rides along in the
product. Kernels do not reach into or out of a loop's body.

What a kernel makes and only itself reads never crosses memory. What it reads from outside is read
once, however many of its ops use it. A kernel is placed where its last op stands.

Not modelled: XLA's limits on a fusion's size, its duplication of cheap producers into several
consumers, and the merging of neighbouring products that share an operand.
"""

import dataclasses
from collections.abc import Iterable, Sequence

from emu.tape import Entry, Touch
from emu.values import Buffer, Count


@dataclasses.dataclass(kw_only=True, eq=False)
class Kernel:
    """Entries that run together."""

    region: int
    open: bool = True
    merged: "Kernel | None" = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fused:
    """An entry in its place, with what of it crosses memory."""

    entry: Entry
    kernel: int | None
    reads: tuple[Touch, ...]
    writes: tuple[Touch, ...]


@dataclasses.dataclass(kw_only=True)
class _Read:
    """What a kernel has of a buffer already."""

    elements: Count = 0
    regions: set[object] = dataclasses.field(default_factory=set)

    def more(self, touch: Touch) -> Touch:
        """The part of a touch that is still to be read."""
        assert isinstance(touch.tensor, Buffer)
        left = touch.tensor.shape.size - self.elements
        new = 0 if touch.regions <= self.regions else min(touch.elements, left)
        self.elements += new
        self.regions |= touch.regions
        return dataclasses.replace(touch, elements=new)


def fuse(entries: Sequence[Entry], escaping: Iterable[Buffer]) -> list[Fused]:
    """Entries in the order in which their kernels run, numbered from 0 by kernel."""
    kernel_of = _grouped(entries)
    last: dict[Kernel | None, int] = {k: i for i, k in enumerate(kernel_of) if k is not None}
    order = sorted(
        range(len(entries)),
        key=lambda i: (last.get(kernel_of[i], i), i),
    )
    crossing = _crossing(entries, kernel_of, set(escaping))
    numbers: dict[Kernel, int] = {}
    inside: dict[tuple[Kernel, Buffer], _Read] = {}
    fused = []
    for i in order:
        entry, kernel = entries[i], kernel_of[i]
        reads = []
        for touch in entry.reads:
            if isinstance(touch.tensor, Buffer) and kernel is not None:
                read = inside.setdefault((kernel, touch.tensor), _Read())
                touch = read.more(touch)  # noqa: PLW2901
            if touch.elements:
                reads.append(touch)
        if kernel is not None:
            for touch in entry.writes:
                if isinstance(touch.tensor, Buffer):
                    inside[kernel, touch.tensor] = _Read(elements=touch.tensor.shape.size)
        writes = [
            t for t in entry.writes if not isinstance(t.tensor, Buffer) or t.tensor in crossing
        ]
        number = None if kernel is None else numbers.setdefault(kernel, len(numbers))
        fused.append(Fused(entry=entry, kernel=number, reads=tuple(reads), writes=tuple(writes)))
    return fused


def _grouped(entries: Sequence[Entry]) -> list[Kernel | None]:
    """The kernel of each entry; None for those that ride along."""
    maker: dict[Buffer, Kernel] = {}
    chosen: list[Kernel | None] = []
    for entry in entries:
        if entry.fuse == "rider":
            chosen.append(None)
            continue
        needed = [t.tensor for t in entry.reads if isinstance(t.tensor, Buffer)] + entry.after
        before = {_root(maker[b]): None for b in needed if b in maker}
        kernel = Kernel(region=entry.region)
        if entry.fuse != "alone":
            for other in before:
                if other.open and other.region == entry.region:
                    other.merged = kernel
        for other in before:
            if _root(other) is not kernel:
                other.open = False
        kernel.open = entry.fuse == "loop"
        for touch in entry.writes:
            if isinstance(touch.tensor, Buffer):
                maker[touch.tensor] = kernel
        chosen.append(kernel)
    return [None if kernel is None else _root(kernel) for kernel in chosen]


def _root(kernel: Kernel) -> Kernel:
    while kernel.merged is not None:
        kernel = kernel.merged
    return kernel


def _crossing(
    entries: Sequence[Entry], kernel_of: Sequence[Kernel | None], escaping: set[Buffer]
) -> set[Buffer]:
    """The buffers that some kernel other than their maker reads, or that outlive their region."""
    maker = {
        t.tensor: kernel
        for entry, kernel in zip(entries, kernel_of, strict=True)
        for t in entry.writes
        if isinstance(t.tensor, Buffer)
    }
    crossing = {b for b in escaping if b in maker}
    for entry, kernel in zip(entries, kernel_of, strict=True):
        needed = [t.tensor for t in entry.reads if isinstance(t.tensor, Buffer)] + entry.after
        crossing.update(b for b in needed if b in maker and maker[b] is not kernel)
    return crossing
