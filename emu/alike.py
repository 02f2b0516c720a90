"""Functions that differ in constants alone, compiled once.

A step of one model at ten batches is ten functions of a system's numbers whose programs are the
same but for the bytes and FLOPs in them. XLA takes about a second to compile one with its gradient.
Here a program's constants become arguments, and what is compiled is kept by what is left of it.
"""

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from emu.jaxprs import without_constants

Array = Any

_compiled: dict[Hashable, Callable[..., tuple[Array, Array]]] = {}


class Gradient(NamedTuple):
    """A function of an array [n] with its gradient; call it with NumPy's float64."""

    compiled: Callable[..., tuple[Array, Array]]
    constants: tuple[Array, ...]

    def __call__(self, at: Array) -> tuple[float, np.ndarray]:
        """The value and the gradient [n] at a point."""
        with jax.enable_x64(True):
            value, slope = self.compiled(at, self.constants)
            return float(value), np.asarray(slope)


def gradient_of(fn: Callable[[Array], Array], count: int) -> Gradient:
    """The gradient of a scalar function of `count` numbers, in float64.

    Args:
      fn: traceable by JAX; called once, with a traced array [count].
      count: how many numbers it takes.
    """
    with jax.enable_x64(True):
        program = without_constants(fn, jnp.ones(count))
        if program.key not in _compiled:
            _compiled[program.key] = jax.jit(jax.value_and_grad(program.run))
        return Gradient(compiled=_compiled[program.key], constants=program.constants)
