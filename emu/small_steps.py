"""What a step costs beside its bytes: starting a program, and starting each of its kernels.

Timed on a program that is no model's: a small vector is normalised, gated and multiplied with one
small matrix, again and again. Two lengths of it give the seconds of one more time, the products'
own seconds (`emu.streams`) are taken off, and what is left is the small kernels'. The rest of the
shorter program is the step's own. Kernels are counted as `emu.trace` counts them, so that the
number is worth what it is multiplied with: where a compiler makes two of what is traced as one, one
costs as much as both.

The two lengths take turns and their stretches last equally long, so that other processes' load
hits both alike: it would lengthen the longer program's alone, and leave nothing for the step.

Steps are enqueued without waiting, as a decode loop enqueues them, so that calling from Python
hides behind the step before.
"""

import dataclasses
import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

import kernels
from emu.streams import TRIES, Stream, of_rounds
from emu.tracing import trace

WIDTH = 1024  # of the vector: too short for its bytes or arithmetic to count
ROWS = 16  # of the matrix
SHORT, LONG = 3, 18  # times
STEPS_OF_SHORT, STEPS_OF_LONG = 60, 10  # in a round


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmallSteps:
    """What programs of small kernels took."""

    per_step_s: float
    per_kernel_s: float  # of one that is no product
    calm: bool  # others did not disturb it


class SmallPrograms:
    """Both lengths of it, compiled, to be timed at any time."""

    def __init__(self) -> None:
        self._short, self._few = _program(SHORT, STEPS_OF_SHORT)
        self._long, self._many = _program(LONG, STEPS_OF_LONG)

    def round_s(self) -> tuple[float, float]:
        """Seconds of a step of the short program, and of one of the long."""
        return self._short(), self._long()

    def parts_s(self, short_s: float, long_s: float, product_s: float) -> tuple[float, float]:
        """What a step and what a small kernel takes, if the programs and a product take so long."""
        products_s = 2 * product_s  # each time
        more_s = long_s - short_s - (LONG - SHORT) * products_s
        per_kernel_s = max(more_s, 0.0) / (self._many - self._few)
        return max(short_s - SHORT * products_s - self._few * per_kernel_s, 0.0), per_kernel_s


def small_product() -> Stream:
    """The product that both programs have twice each time, by itself."""
    return Stream.over("float32", ROWS * WIDTH * 4, 1, 1)


def small_steps(tries: int = TRIES) -> SmallSteps:
    """Times both programs; `tries`: how often at the most, for as long as others disturb them."""
    product = small_product().seconds_per_read(tries)
    programs = SmallPrograms()
    (short_s, long_s), calm = of_rounds(programs.round_s, tries)
    per_step_s, per_kernel_s = programs.parts_s(short_s, long_s, product.seconds)
    return SmallSteps(per_step_s=per_step_s, per_kernel_s=per_kernel_s, calm=product.calm and calm)


def _program(times: int, steps: int) -> tuple[Callable[[], float], int]:
    """What times a round of it, in seconds of a step; and its small kernels as they are traced."""
    weights = jnp.full((ROWS, WIDTH), 1 / WIDTH), jnp.ones(WIDTH)
    step = jax.jit(functools.partial(_small, times), donate_argnums=1)
    small = trace(step, weights, jnp.ones(WIDTH)).kernels - 2 * times
    x = jax.block_until_ready(step(weights, jnp.ones(WIDTH)))

    def a_round() -> float:
        nonlocal x
        start = time.perf_counter()
        for _ in range(steps):
            x = step(weights, x)
        x.block_until_ready()
        return (time.perf_counter() - start) / steps

    return a_round, small


def _small(times: int, weights: tuple[jax.Array, jax.Array], x: jax.Array) -> jax.Array:
    matrix, gain = weights
    for _ in range(times):
        (y,) = kernels.matvec(gain * x * jax.lax.rsqrt(jnp.mean(x * x) + 1e-6), (matrix,))
        wide = jnp.tile(y, WIDTH // ROWS)
        (y,) = kernels.matvec(wide * jax.nn.sigmoid(wide), (matrix,))
        x = x + jnp.tile(y, WIDTH // ROWS)
    return x
