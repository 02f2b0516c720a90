"""The serving software as data: what it adds to a step that the chip alone would not take.

A `Stack` holds what the clock takes from software: seconds per step and per kernel, how far ahead
of the arithmetic it fetches weights, and which share of each class of memory's bandwidth its
kernels reach. `ideal` adds nothing and wastes nothing, so that a prediction with it is what the
chip itself allows; every other stack is a claim about the world, so that its numbers have sources.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from emu.chips import Sourced
from emu.errors import EmuError
from emu.records import pytree
from emu.rules import nearest


@pytree(static=("name", "prefetch_kernels", "pads"))
@dataclasses.dataclass(frozen=True, kw_only=True)
class Stack:
    """What serving software adds to a step; every number is a `Sourced` and a pytree leaf."""

    name: str
    per_step_s: Sourced  # once a step: scheduling, sampling, the host's turn
    per_kernel_s: Sourced  # launch and synchronisation, during which no arithmetic is done
    # Kernels ahead of the running one whose weights are fetched already; None: as many as fit in
    # the buffer. 0: a kernel reads all that it needs itself.
    prefetch_kernels: int | None
    prefetch_bytes: Sourced  # of the faster memories, kept as the buffer that it is fetched into
    on_chip_share: Sourced  # of the memory's bandwidth that kernels reach
    off_chip_share: Sourced
    compute_share: Sourced  # of the peak FLOP/s that products reach
    per_exchange_s: Sourced  # beside what the link takes: synchronisation before a collective
    # Links side by side over which a vector enters a mesh of cores; at most the region's side.
    mesh_lanes: Sourced
    # How much of a memory's latency each kernel waits for (0: hidden by other reads under way).
    exposed_latency: Sourced
    # Of every memory's capacity, kept for what is no tensor: workspaces, code, fragmentation.
    reserve_share: Sourced
    # Heads or columns that do not divide among the ranks are padded until they do; else an error.
    pads: bool = False

    def __post_init__(self) -> None:
        if not self.name:
            raise EmuError("a stack needs a name, such as 'ideal'")
        ahead = self.prefetch_kernels
        if ahead is not None and (not isinstance(ahead, int) or isinstance(ahead, bool)):
            raise EmuError(f"stack {self.name!r}: prefetch_kernels is a count or None, not {ahead}")
        if ahead is not None and ahead < 0:
            raise EmuError(f"stack {self.name!r}: prefetch_kernels must be at least 0, not {ahead}")
        for field, number in _numbers(self):
            if not isinstance(number, Sourced):
                raise EmuError(
                    f"stack {self.name!r}: {field} must be Sourced(value=…, source=…, kind=…)"
                )
            value = number.value
            if not isinstance(value, int | float):
                continue  # traced
            if field in ("on_chip_share", "off_chip_share", "compute_share") and not 0 < value <= 1:
                raise EmuError(
                    f"stack {self.name!r}: {field} is a share above 0 and up to 1, not {value}"
                )
            if field in ("exposed_latency", "reserve_share") and not 0 <= value <= 1:
                raise EmuError(f"stack {self.name!r}: {field} is a share from 0 to 1, not {value}")

    def share_of(self, placement: str) -> Any:
        """The share of bandwidth that is reached in memories of a class."""
        return (self.on_chip_share if placement == "on-chip" else self.off_chip_share).value


def _numbers(stack: Stack) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(stack):
        if field.name not in ("name", "prefetch_kernels", "pads"):
            yield field.name, getattr(stack, field.name)


def _by_definition(value: float) -> Sourced:
    return Sourced(value=value, source="what 'ideal' means: nothing added or lost", kind="assumed")


IDEAL = Stack(
    name="ideal",
    per_step_s=_by_definition(0.0),
    per_kernel_s=_by_definition(0.0),
    prefetch_kernels=None,
    prefetch_bytes=_by_definition(math.inf),
    on_chip_share=_by_definition(1.0),
    off_chip_share=_by_definition(1.0),
    compute_share=_by_definition(1.0),
    per_exchange_s=_by_definition(0.0),
    mesh_lanes=_by_definition(math.inf),
    exposed_latency=_by_definition(0.0),
    reserve_share=_by_definition(0.0),
)

_STACKS: dict[str, Stack] = {IDEAL.name: IDEAL}


def stacks() -> list[Stack]:
    """The known stacks."""
    return list(_STACKS.values())


def stack(name: str) -> Stack:
    """The stack of this name; EmuError, with the nearest name, if there is none."""
    if name not in _STACKS:
        raise EmuError(
            f"there is no stack {name!r}{nearest(name, _STACKS)}; "
            "or pass an emu.Stack of your own numbers"
        )
    return _STACKS[name]
