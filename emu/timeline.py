"""What a predicted step looks like: its seconds, where they go, and what each kernel does when."""

import dataclasses
from collections.abc import Callable
from typing import Any

from emu.errors import EmuError
from emu.records import pytree

# Where the seconds of a step go. `collectives` are exchanges between chips, and between the cores
# of one that is a mesh; `overhead` is the stack's time and exposed latency.
PARTS = ("weights", "cache", "activations", "compute", "collectives", "overhead")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Span:
    """A stretch of one resource's time that one kernel takes."""

    name: str  # the kernel's main op
    scope: str
    line: str
    resource: str  # `compute`, a memory, `link`, or `overhead`
    start_s: float
    seconds: float


@pytree(static=("traffic", "notes", "build_spans"))
@dataclasses.dataclass(frozen=True, kw_only=True)
class Timeline:
    """One predicted step of a system.

    A pytree, so that `jax.vmap` of `emu.predict` gives one of arrays.
    """

    seconds: Any
    breakdown: dict[str, Any]  # seconds by part; they add up to `seconds`
    traffic: dict[str, int]  # bytes read and written by memory, over all chips
    # Stated power of all chips times seconds: an assumption, since a chip that waits for its
    # memory draws less. None where the chip states no power.
    energy_j: Any
    notes: tuple[str, ...] = ()  # what had to be assumed
    build_spans: Callable[[], tuple[Span, ...]] | None = None

    @property
    def spans(self) -> tuple[Span, ...]:
        """Kernel by kernel, built when asked for; EmuError under a JAX transformation."""
        if self.build_spans is None:
            raise EmuError(
                "spans are built for one system of plain numbers: call emu.predict outside "
                "jax.vmap, jax.grad and jax.jit"
            )
        return self.build_spans()

    def __str__(self) -> str:
        """The step in milliseconds, its parts below."""
        lines = [f"{1e3 * float(self.seconds):.6g} ms a step"]
        for part, seconds in self.breakdown.items():
            share = float(seconds) / float(self.seconds) if float(self.seconds) else 0.0
            lines.append(f"  {part:<12} {1e3 * float(seconds):>12.6g} ms  {share:>6.1%}")
        for memory, count in self.traffic.items():
            lines.append(f"  {memory:<12} {count / 1e9:>12.6g} GB")
        if self.energy_j is not None:
            lines.append(f"  {'energy':<12} {float(self.energy_j):>12.6g} J at the stated power")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])
