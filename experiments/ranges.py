"""How far a prediction may be off, from how far the numbers in it may be.

Every number of a chip and a stack that has a range is moved to its low and to its high end while
the others stay, and the step is predicted again. A range is taken to hold the number eight times
out of ten, and numbers to be wrong independently of each other, so that the logarithms of what they
do to the time add in quadrature, slower and faster ones apart:

    high = t · exp(√ Σ ln²(t_i / t)),  over the ends that make it slower; low alike.

That is the first-order propagation in logarithms where the time is smooth, and does not need it to
be. What the model leaves out shows in cases that were left out of the stack's fit: eight of ten
were off by less than `Stack.log_error`. They were off for the numbers' sake too, so that the two
are not added: the larger counts, and of it as much as holds eight of ten left-out cases
(`Stack.range_share`), since the larger of two 80 % ranges holds more. With `ideal` what the model
leaves out is not covered, nor are numbers without a range: vendors' figures are taken at their
word.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator

import jax

import emu
from emu.sensitivity import name_of

Clock = Callable[[emu.System], float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moved:
    """One number with a range or an assumption, and the time at its two ends."""

    name: str  # `chip/hbm/bandwidth_bytes_per_s`
    number: emu.Sourced
    low_s: float  # the step, with this number at its low end
    high_s: float

    def matters(self, seconds: float) -> bool:
        """Whether moving it changes the time (by more than a rounding)."""
        return max(abs(self.low_s - seconds), abs(self.high_s - seconds)) > 1e-9 * seconds


@dataclasses.dataclass(frozen=True, kw_only=True)
class Range:
    """The 80 % range of a time, and the numbers that it comes from, widest first."""

    low_s: float
    high_s: float
    moved: tuple[Moved, ...]


def range_of(clock: Clock, system: emu.System) -> Range:
    """The range of `clock(system)` in seconds, from the ranges of the system's numbers."""
    seconds = clock(system)
    moved = [
        Moved(
            name=name,
            number=number,
            low_s=clock(with_low),
            high_s=clock(with_high),
        )
        for name, number, with_low, with_high in _ends(system)
    ]
    moved = [m for m in moved if m.matters(seconds)]
    moved.sort(key=lambda m: -abs(math.log(m.low_s / m.high_s)))
    left_out = float(system.software.log_error.value)
    share = float(system.software.range_share.value)
    slower = math.hypot(*(max(0.0, _log(m, seconds, max)) for m in moved))
    faster = math.hypot(*(min(0.0, _log(m, seconds, min)) for m in moved))
    return Range(
        low_s=seconds * math.exp(-share * max(faster, left_out)),
        high_s=seconds * math.exp(share * max(slower, left_out)),
        moved=tuple(moved),
    )


def _log(moved: Moved, seconds: float, pick: Callable[[float, float], float]) -> float:
    return math.log(pick(moved.low_s, moved.high_s) / seconds)


def _ends(system: emu.System) -> Iterator[tuple[str, emu.Sourced, emu.System, emu.System]]:
    """Each number with a range, and the system with it at its low and at its high end."""
    found, structure = jax.tree_util.tree_flatten_with_path(system, is_leaf=_is_sourced)
    numbers = [number for _, number in found]
    for at, (path, number) in enumerate(found):
        if not _is_sourced(number) or (number.low is None and number.high is None):
            continue
        ends = [
            jax.tree_util.tree_unflatten(
                structure, [*numbers[:at], _at(number, value), *numbers[at + 1 :]]
            )
            for value in (number.low, number.high)
        ]
        yield name_of(system, path), number, ends[0], ends[1]


def _at(number: emu.Sourced, value: float | None) -> emu.Sourced:
    return number if value is None else dataclasses.replace(number, value=value)


def _is_sourced(leaf: object) -> bool:
    return isinstance(leaf, emu.Sourced)
