"""Weights that stay in a scratchpad, for functions that say how.

A TPU's on-chip memory is no cache: between two programs nothing stays in it, and within one XLA
uses it as it likes. So only a kernel can keep weights there, for as long as it runs, and no kernel
is made of any function. A function that has one is asked for it by a method, `in_one_kernel`:
several steps as one program, whose kernel holds the weights that are placed on chip.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax

from emu.errors import EmuError
from emu.placement import Placement

InOne = Callable[[int], Callable[[Any, jax.Array], tuple[jax.Array, Any]]]


@runtime_checkable
class Persistent(Protocol):
    """A step `(weights, carry, x) -> (x', carry)` that is also several steps in one kernel."""

    def __call__(self, weights: Any, carry: Any, x: jax.Array, /) -> tuple[jax.Array, Any]:
        """One step, as an ordinary function."""

    def in_one_kernel(self, weights: Any, placement: Placement) -> InOne:
        """Of a number of steps `(carry, x) -> (x', carry)`: all from the same x, the last one's x'.

        Raises ValueError, in one line, for weights or a placement that the kernel cannot keep.
        """


def checked(fn: Callable[..., Any], argnum: int) -> Persistent:
    """Raises EmuError where the function has no such form."""
    if not isinstance(fn, Persistent):
        name = getattr(fn, "__name__", type(fn).__name__)
        raise EmuError(
            f"realize: {name} has no method in_one_kernel, and weights stay in a scratchpad only "
            "while one kernel runs: place in another pair of memories, emu.host(pair='memory-kind')"
        )
    if argnum:
        raise EmuError(f"realize: in_one_kernel takes the weights first, not as argument {argnum}")
    return fn
