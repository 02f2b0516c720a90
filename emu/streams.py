"""How fast weights stream from a memory into a product, by the size of one read.

A decode step is one jitted program of some hundred products, each reading its own weights once,
one after the other. So that is what is timed: a program that chains products over different
buffers, each one's input being the output of the one before, and many such programs in flight, so
that Python's dispatch is hardly in the figure. Reading the same few buffers again and again
measures the cache; reading so many that each has left the cache when it comes round again, the
memory behind it.
"""

import dataclasses
import functools
import itertools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import kernels
from emu import load

DTYPES = ("float32", "bfloat16", "int8")

CHAIN = 256  # products in one program, at the most
# Reads of a set in VMEM for each time that it is copied there, which is in the time too.
HELD_REPEATS = 1024
HELD_MATRICES = 16  # in a set, at the most
# Read by one program, if that is not too many products: longer than calling the next one takes,
# which on an H200's host was 40 µs.
CPU_CALL_BYTES = 64_000_000
ACCELERATOR_CALL_BYTES = 1_000_000_000

# Rounds short enough that some fall between other processes' time slices.
ROUNDS = 25
ROUND_S = 0.004
TRIES = 3  # of all the rounds, where others' load disturbs them
QUANTILE = 0.5  # of the rounds' times: the median, as experiments report it
DISTURBED_QUANTILE = 0.05  # where others took the cores in between: nearly the best


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stream:
    """A chain of square products and the sets of weights that it reads in turn."""

    side: int  # of each matrix
    sets: tuple[tuple[kernels.Matrix, ...], ...]
    repeats: int  # how often one program goes through its set
    read_bytes: int  # of one product
    fetch: bool = False  # each product first copies its weights from another memory kind
    in_vmem: bool = False  # one kernel copies them on the chip, once

    @classmethod
    def hot(cls, dtype: str, read_bytes: int, set_bytes: int) -> "Stream":
        """Products of about `read_bytes`, over one set of `set_bytes` that stays where it is."""
        count = max(1, min(CHAIN, set_bytes // read_bytes))
        return cls.over(dtype, read_bytes, count, 1)

    @classmethod
    def cold(cls, dtype: str, read_bytes: int, total_bytes: float) -> "Stream":
        """The same over so many sets that `total_bytes` are read before one comes round."""
        count = max(1, min(CHAIN, call_bytes() // read_bytes))
        return cls.over(dtype, read_bytes, count, math.ceil(total_bytes / (count * read_bytes)))

    @classmethod
    def over(cls, dtype: str, read_bytes: int, count: int, sets: int) -> "Stream":
        """The same over a given number of sets of `count` products."""
        side = _side(dtype, read_bytes)
        pages = kernels.LargePages()  # as weights are held
        of_ones = _matrix(dtype, side)
        made = tuple(
            tuple(jax.tree.map(pages.put, of_ones) for _ in range(count)) for _ in range(sets)
        )
        jax.block_until_ready(made)
        exactly = sum(leaf.nbytes for leaf in jax.tree.leaves(made[0][0]))
        wanted = call_bytes() // (count * exactly) if sets == 1 else 1
        repeats = max(1, min(wanted, CHAIN // count))
        return cls(side=side, sets=made, repeats=repeats, read_bytes=exactly)

    @classmethod
    def fetched(cls, dtype: str, read_bytes: int, kind: str) -> "Stream":
        """The same from another memory kind: each product copies its weights to the device."""
        stream = cls.over(dtype, read_bytes, max(1, min(16, call_bytes() // read_bytes)), 1)
        there = jax.tree.map(
            lambda leaf: jax.device_put(leaf, leaf.sharding.with_memory_kind(kind)), stream.sets
        )
        return dataclasses.replace(stream, sets=there, repeats=1, fetch=True)

    @classmethod
    def held(cls, dtype: str, read_bytes: int, room_bytes: int) -> "Stream":
        """The same from a TPU's VMEM, where one kernel keeps the set."""
        most = min(room_bytes, HELD_MATRICES * 2**18)
        stream = cls.over(dtype, read_bytes, max(1, min(HELD_MATRICES, most // read_bytes)), 1)
        return dataclasses.replace(stream, repeats=HELD_REPEATS, in_vmem=True)

    def seconds_per_read(self, tries: int = TRIES) -> "Timing":
        """How long one product takes, its weights coming from wherever the sets are by then.

        `tries`: how often all is done, at the most, for as long as others disturb it.
        """
        reading = Reading(self)
        (seconds,), calm = of_rounds(lambda: [reading.round_s()], tries)
        return Timing(read_bytes=self.read_bytes, seconds=seconds, calm=calm)

    def read(self, x: jax.Array, matrices: tuple[Any, ...]) -> jax.Array:
        """Enqueues one program, over one of the sets; `x` is what the one before returned."""
        if self.in_vmem:
            out: jax.Array = _held_chain(x, matrices, self.repeats)
        else:
            out = _chain(x, matrices, self.repeats, self.fetch)
        return out


class Reading:
    """A stream under way: each round goes on with the set at which the last one stopped."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._turn = itertools.cycle(stream.sets)
        self._x = jnp.ones(stream.side)
        self._seconds(len(stream.sets))  # compiles, and reads every set once
        seconds = self._seconds(len(stream.sets))
        self._calls = max(1, round(len(stream.sets) * ROUND_S / seconds))

    def round_s(self) -> float:
        """Seconds of one product, from a round of about `ROUND_S`."""
        reads = self._calls * len(self._stream.sets[0]) * self._stream.repeats
        return self._seconds(self._calls) / reads

    def _seconds(self, calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            self._x = self._stream.read(self._x, next(self._turn))
        self._x.block_until_ready()
        return time.perf_counter() - start


def call_bytes() -> int:
    """How much one program reads, at the most, on JAX's default backend."""
    return CPU_CALL_BYTES if jax.default_backend() == "cpu" else ACCELERATOR_CALL_BYTES


def of_rounds(
    a_round: Callable[[], Sequence[float]], tries: int = TRIES
) -> tuple[list[float], bool]:
    """Seconds from many short rounds of the same, and whether others left them in peace.

    Args:
      a_round: does one and returns the seconds of each thing that is asked for.
      tries: how often all rounds are done, at the most, for as long as others disturb them.
    """
    rounds: list[Sequence[float]] = []
    calm = False
    for _ in range(tries):
        before = load.read()
        tried = [a_round() for _ in range(ROUNDS)]
        calm = not load.is_disturbed(before, load.read())
        rounds = tried if calm else rounds + tried
        if calm:
            break
    found = np.quantile(rounds, QUANTILE if calm else DISTURBED_QUANTILE, axis=0)
    return [float(seconds) for seconds in found], calm


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """What one product of a stream took."""

    read_bytes: int
    seconds: float
    calm: bool  # others did not disturb it

    @property
    def bytes_per_s(self) -> float:
        """Streaming bandwidth at this size of read."""
        return self.read_bytes / self.seconds


def _side(dtype: str, read_bytes: int) -> int:
    """The side of a square matrix of about so many bytes, a multiple of 16."""
    return max(16, round(math.sqrt(read_bytes / jnp.dtype(dtype).itemsize) / 16) * 16)


def _matrix(dtype: str, side: int) -> kernels.Matrix:
    """A product with this leaves a vector of ones as it is, but for rounding."""
    if dtype == "int8":
        return jnp.full((side, side), 1, jnp.int8), jnp.full(side, 1 / side)
    return jnp.full((side, side), 1 / side, dtype)


@functools.partial(jax.jit, static_argnums=2)
def _held_chain(x: jax.Array, matrices: tuple[jax.Array, ...], repeats: int) -> jax.Array:
    from kernels.held_products import held_products  # noqa: PLC0415 - Pallas, which only TPUs need

    return held_products(x, matrices, repeats)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _chain(
    x: jax.Array, matrices: tuple[kernels.Matrix, ...], repeats: int, fetch: bool
) -> jax.Array:
    for matrix in matrices * repeats:
        here = jax.device_put(matrix, jax.memory.Space.Device) if fetch else matrix
        (x,) = kernels.matvec(x, (here,))
    return x / x[0]  # else rounding would let it fade into numbers that are slow to add
