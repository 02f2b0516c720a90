"""Telling a machine's drift from a prediction's error: what `emu.host()` timed, timed again.

A memory bus, a cache or cores that others use too give something else some minutes later, and then
what `emu.host()` measured is of a machine that is no more. So some of its reads and its small
programs, the very same ones of no model, are timed again by turns with what a prediction is held
against. Each curve is scaled by what its memory gives now over what it gave then,

    factor(size) = seconds of one read then ÷ seconds of one read now

between the sizes that were timed again on a straight line in the logarithms of both, outside them
as at the nearest; and starting a step and a kernel costs what it costs now. What a memory holds
stays as it was.
"""

import dataclasses
import statistics
from collections.abc import Sequence

import numpy as np

from emu import load
from emu.chips import Chip, Curve, Memory, Sourced
from emu.errors import EmuError
from emu.probe import cached_stream
from emu.small_steps import SmallPrograms, small_product
from emu.stacks import Stack
from emu.streams import Reading

ROUNDS = 5  # of each in a turn, some 4 ms each, after one that is not counted


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retimed:
    """One of the reads that made a curve, timed again for a moment."""

    memory: str
    dtype: str
    read_bytes: int
    seconds: tuple[float, ...]  # of one read, round by round


@dataclasses.dataclass(frozen=True, kw_only=True)
class Turn:
    """All that was timed again at one time."""

    reads: tuple[Retimed, ...]
    starts: tuple[tuple[float, float, float], ...]  # rounds of the short, the long and the product
    calm: bool  # others did not disturb it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drift:
    """What one read takes now, and what it took when `emu.host()` measured it."""

    memory: str
    dtype: str
    read_bytes: int
    then_s: float
    now_s: float

    def __post_init__(self) -> None:
        if not (self.then_s > 0 and self.now_s > 0 and self.read_bytes > 0):
            raise EmuError(f"a read of some bytes takes some seconds, then and now: {self}")

    @property
    def factor(self) -> float:
        """The bandwidth now, over that of then."""
        return self.then_s / self.now_s


@dataclasses.dataclass(frozen=True, kw_only=True)
class Now:
    """What a machine is by now. Where nothing was timed again, it is what it was."""

    reads: tuple[Drift, ...] = ()
    per_step_s: float | None = None
    per_kernel_s: float | None = None

    def chip(self, chip: Chip) -> Chip:
        """The chip of `emu.host()` as it is now; the bandwidths of other dtypes stay."""
        return drifted(chip, self.reads)

    def stack(self, stack: Stack) -> Stack:
        """The stack of `emu.host_stack()` as it is now."""
        return dataclasses.replace(
            stack,
            per_step_s=_again(stack.per_step_s, self.per_step_s),
            per_kernel_s=_again(stack.per_kernel_s, self.per_kernel_s),
        )


class References:
    """Reads of a cache and of the memory behind it, and small programs, ready to be timed again.

    They take as much memory as eight times the cache, for each size of read.
    """

    def __init__(self, chip: Chip, dtype: str, sizes: Sequence[float]) -> None:
        """Makes the weights, and reads them once.

        Args:
          chip: from `emu.host(pair="rotation")`.
          dtype: of the weights.
          sizes: bytes of the reads that a prediction is to be made of. Those of the curves are
            taken that have all of them between.

        Raises EmuError where the chip's reads were not measured, so that there is nothing to drift
        from, or not by rotation.
        """
        if not sizes or min(sizes) <= 0:
            raise EmuError(f"reference reads need sizes of some bytes, not {list(sizes)}")
        self._chip = chip
        cache = chip.memory("on-chip").capacity_bytes
        self._readings = {
            (memory.name, dtype, n): Reading(cached_stream(memory.placement, cache, dtype, n))
            for memory in chip.memories
            for n in around(measured_curve(chip, memory, dtype), sizes)
        }
        self._programs = SmallPrograms()
        self._product = Reading(small_product())

    def take(self) -> Turn:
        """Times each of them for a moment (20 ms), whatever is in the cache before.

        It leaves the cache full of its own weights, as any other turn would.
        """
        before = load.read()
        reads = []
        for (memory, dtype, n), reading in self._readings.items():
            reading.round_s()  # the first brings its own weights into the cache
            seconds = tuple(reading.round_s() for _ in range(ROUNDS))
            reads.append(Retimed(memory=memory, dtype=dtype, read_bytes=n, seconds=seconds))
        self._programs.round_s()
        starts = tuple((*self._programs.round_s(), self._product.round_s()) for _ in range(ROUNDS))
        calm = not load.is_disturbed(before, load.read())
        return Turn(reads=tuple(reads), starts=starts, calm=calm)

    def now(self, turns: Sequence[Turn]) -> Now:
        """What these turns say: medians of undisturbed ones, or of all if every one was disturbed.

        It is the statistic of `emu.Latency`. Raises EmuError for no turn.
        """
        if not turns:
            raise EmuError("nothing was timed again: take a turn before asking what is now")
        calm = [turn for turn in turns if turn.calm] or list(turns)
        rounds = zip(*(times for turn in calm for times in turn.starts), strict=True)
        per_step_s, per_kernel_s = self._programs.parts_s(*map(statistics.median, rounds))
        return Now(
            reads=drifts(self._chip, [read for turn in calm for read in turn.reads]),
            per_step_s=per_step_s,
            per_kernel_s=per_kernel_s,
        )


def measured_curve(chip: Chip, memory: Memory, dtype: str) -> Curve:
    """The curve of a memory that can be timed again; EmuError where there is none."""
    if memory.mechanism != "rotation":
        raise EmuError(
            f"{memory.name} of {chip.name!r} is not read by rotation: reference reads are for the "
            "two memories of emu.host(pair='rotation')"
        )
    for curve in memory.curves:
        if curve.dtype == dtype:
            return curve
    known = ", ".join(curve.dtype for curve in memory.curves) or "none"
    raise EmuError(
        f"reads of {dtype} from {memory.name} of {chip.name!r} were not measured (measured were: "
        f"{known}), so that there is nothing to hold new ones against: take the chip from "
        "emu.host()"
    )


def around(curve: Curve, sizes: Sequence[float]) -> tuple[int, ...]:
    """Of a curve's sizes those that have the given ones between, as far as it has them."""
    known = [int(n) for n in curve.read_bytes]
    first = max((n for n in known if n <= min(sizes)), default=known[0])
    last = min((n for n in known if n >= max(sizes)), default=known[-1])
    return tuple(n for n in known if first <= n <= last)


def drifts(chip: Chip, taken: Sequence[Retimed]) -> tuple[Drift, ...]:
    """How far each read is, at the median, from what it was when the chip was measured."""
    seconds: dict[tuple[str, str, int], list[float]] = {}
    for one in taken:
        seconds.setdefault((one.memory, one.dtype, one.read_bytes), []).extend(one.seconds)
    return tuple(
        Drift(
            memory=memory,
            dtype=dtype,
            read_bytes=n,
            then_s=measured_curve(chip, chip.memory(memory), dtype).seconds(n),
            now_s=statistics.median(found),
        )
        for (memory, dtype, n), found in seconds.items()
    )


def drifted(chip: Chip, found: Sequence[Drift]) -> Chip:
    """The chip as it is now: the curves of those memories and dtypes scaled, and the bandwidths.

    Without any drift it is the chip as it was.
    """
    for drift in found:
        measured_curve(chip, chip.memory(drift.memory), drift.dtype)
    memories = tuple(
        _drifted(memory, [drift for drift in found if drift.memory == memory.name])
        for memory in chip.memories
    )
    return dataclasses.replace(chip, memories=memories)


def _drifted(memory: Memory, found: Sequence[Drift]) -> Memory:
    if not found:
        return memory
    curves = tuple(
        _scaled(curve, [drift for drift in found if drift.dtype == curve.dtype])
        for curve in memory.curves
    )
    largest = max(found, key=lambda drift: drift.read_bytes)  # the bandwidth is of large reads
    bandwidth = memory.bandwidth_bytes_per_s
    now = Sourced(
        value=bandwidth.value * largest.factor,
        source=_source(bandwidth.source, [largest]),
        kind=bandwidth.kind,
    )
    return dataclasses.replace(memory, curves=curves, bandwidth_bytes_per_s=now)


def _scaled(curve: Curve, found: Sequence[Drift]) -> Curve:
    if not found:
        return curve
    by_size = sorted(found, key=lambda drift: drift.read_bytes)
    factors = np.exp(
        np.interp(
            np.log(np.asarray(curve.read_bytes, np.float64)),
            np.log([drift.read_bytes for drift in by_size]),
            np.log([drift.factor for drift in by_size]),
        )
    )
    return dataclasses.replace(
        curve,
        bytes_per_s=tuple(
            float(speed * factor) for speed, factor in zip(curve.bytes_per_s, factors, strict=True)
        ),
        source=_source(curve.source, by_size),
    )


def _again(then: Sourced, now_s: float | None) -> Sourced:
    if now_s is None:
        return then
    return Sourced(value=now_s, source=f"{then.source}, timed again", kind="measured")


def _source(source: str, found: Sequence[Drift]) -> str:
    sizes = ", ".join(f"{drift.read_bytes / 1e6:.2f}" for drift in found)
    return f"{source}, scaled by {found[0].dtype} reads of {sizes} MB that were timed again"
