"""Many steps in one jitted program, so that the host's dispatch is hardly in their mean.

Each step's input depends on the output of the one before, by a factor that is zero where the
program runs and that its compiler does not know: steps can neither be dropped nor be merged.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp


def steps_in_one(
    fn: Callable[..., Any],
    trees: Sequence[Any],
    steps: int,
) -> Callable[[Any, jax.Array], tuple[jax.Array, Any]]:
    """`(carry, x) -> (x, carry)`, which calls `fn(weights, carry, x) -> (x', carry)` so often.

    Args:
      fn: x' has x's shape and dtype, as of a decode step's layers.
      trees: of weights; each step takes the next.
      steps: how many.

    The carry is donated.
    """

    @functools.partial(jax.jit, donate_argnums=2)
    def program(trees: Sequence[Any], zero: jax.Array, carry: Any, x: jax.Array) -> Any:
        given = x
        for step in range(steps):
            out, carry = fn(trees[step % len(trees)], carry, x)
            x = given + zero.astype(out.dtype) * out
        return x, carry

    return functools.partial(program, tuple(trees), jnp.float32(0))
