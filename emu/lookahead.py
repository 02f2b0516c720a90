"""How long a memory that is read ahead keeps the arithmetic waiting, in closed form.

A port delivers bytes all the time; a kernel takes its own when it runs. The *lead* is how far the
port is ahead, in seconds of its own time, at most `cap` (what the buffer holds, or what the next
kernels need at all). One kernel that is `busy` seconds and needs `feed` seconds of the port:

    stall = max(0, feed - busy - lead)        lead' = min(cap, max(0, lead + busy - feed))

which is Lindley's recursion for a queue with a finite buffer (D. V. Lindley, 1952; the two-sided
reflection of Kruk et al., 2007). What a run of kernels does to the lead and how long it stalls has
the form

    lead' = min(high, max(low, lead + gain))      stalls = least + max(0, edge - lead)

and two such runs, one after the other, have it again (`then`), as has a run repeated n times
(`repeated`). So a step of thousands of kernels is folded pairwise, in arrays, without a loop; and
the lead with which a step that is repeated for ever begins (`stalls_of_cycle`) is known as well.
The form is exact: where low < high every lead in between passes without touching either bound, so
that edge = low - gain, and where low = high it no longer matters how the run began.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from emu import windows


class Run(NamedTuple):
    """A run of kernels, or arrays of runs; all numbers are seconds of the port's time."""

    gain: Any
    low: Any
    high: Any
    least: Any
    edge: Any


NOTHING = (0.0, 0.0, 1e12, 0.0, 0.0)  # the run that changes nothing: a lead is never negative


def one(slack: Any, cap: Any) -> Run:
    """One kernel with `slack` = busy - feed, that the port may leave `cap` ahead."""
    zero = 0.0 * (slack + cap)
    return Run(gain=slack + zero, low=zero, high=cap + zero, least=zero, edge=zero - slack)


def then(first: Run, second: Run, xp: Any = np, rounding: Any = 0.0) -> Run:
    """`first` and afterwards `second`."""
    over_high = _positive(second.edge - first.high, xp, rounding)
    over_low = _positive(second.edge - first.low, xp, rounding)
    return Run(
        gain=first.gain + second.gain,
        low=_within(first.low + second.gain, second, xp),
        high=_within(first.high + second.gain, second, xp),
        least=first.least + second.least + over_high,
        edge=first.edge + over_low - over_high,
    )


def folded(runs: Run, xp: Any = np, rounding: Any = 0.0) -> Run:
    """The runs along the last axis, one after the other.

    In JAX in a loop of its own: pairwise, XLA takes a minute to compile what is a few hundred sums.
    """
    if xp is not np:
        each = Run(*[xp.moveaxis(field, -1, 0) for field in runs])
        start = Run(*[xp.full(each.gain.shape[1:], nothing) for nothing in NOTHING])
        return jax.lax.scan(lambda at, one: (then(at, one, xp, rounding), None), start, each)[0]
    at = Run(*[np.full(runs.gain.shape[:-1], nothing) for nothing in NOTHING])
    for i in range(runs.gain.shape[-1]):
        at = then(at, Run(*[field[..., i] for field in runs]), xp, rounding)
    return at


def followed_by(run: Run, slacks: Iterable[float], caps: Iterable[float]) -> Run:
    """`run` and then kernels (`one`) of plain numbers, without an array or a record for each."""
    gain, low, high, least, edge = run
    steps = zip(slacks, caps, strict=True)
    if low < high:
        for slack, cap in steps:
            gain += slack
            low += slack
            high += slack
            if low < 0.0:
                if high < 0.0:
                    least -= high
                    edge += high
                    high = 0.0
                edge -= low
                low = 0.0
            if high > cap:
                high = cap
                low = min(low, cap)
            if low >= high:
                break
    # From here on it does not matter how the run began: there is one lead, and `gain` is not asked
    # for any more.
    for slack, cap in steps:
        low += slack
        if low < 0.0:
            least -= low
            low = 0.0
        elif low > cap:
            low = cap
        high = low
    return Run(gain, low, high, least, edge)


class Moves(NamedTuple):
    """The lead's way through a schedule, launches and arithmetic by turns, in as few steps as do.

    Steps that cannot lower the lead, and leave it no more room one after the other, are one step
    of their sum: min(b, min(a, lead + x) + y) = min(b, lead + x + y) where x, y >= 0 and a >= b.
    """

    starts: Any  # [moves]: of each, among [launch, arithmetic] of row after row
    ahead: Any  # [moves]: bytes that the port may be ahead by at its end
    runs: tuple[tuple[int, int, int], ...]  # (first, last + 1, repeats)


def moves_of(runs: Sequence[windows.Run], ahead: Any, reads: Any) -> Moves:
    """The moves of rows that the port may be `ahead` [rows, 2] of, of which `reads` [rows] wait."""
    ahead = ahead.ravel()
    lowers = np.stack((np.zeros(len(reads), bool), reads), axis=1).ravel()
    apart = np.ones(len(ahead), bool)
    apart[1:] = lowers[1:] | lowers[:-1] | (ahead[1:] > ahead[:-1])
    apart[[2 * run.start for run in runs]] = True
    starts = np.flatnonzero(apart)
    ends = np.append(starts[1:], len(ahead)) - 1
    first = np.cumsum(apart) - 1  # the move of each step
    return Moves(
        starts=starts,
        ahead=ahead[ends],
        runs=tuple(
            (int(first[2 * run.start]), int(first[2 * run.stop - 1]) + 1, run.repeats)
            for run in runs
        ),
    )


def repeated(run: Run, times: Any, xp: Any = np) -> Run:
    """The same run `times` over (at least 1).

    From the largest lead the run is entered with high, then high + gain, …, down to low; from the
    smallest with low, low + gain, …, up to high. Below `low - gain` each missing second of lead is
    a second of stall, so that the stalls on the way down are what is lost less what was there.
    """
    gain, low, high, least, edge = run
    more = times - 1
    lowest = _within(low + more * gain, run, xp)
    highest = _within(high + more * gain, run, xp)
    forgets = low >= high  # where it begins does not matter: all repeats after the first are alike
    downhill = xp.where(gain < 0, highest - high - more * gain, 0.0)
    from_high = xp.where(forgets, more * _positive(edge - high, xp, 0.0), downhill)
    from_low = more * _positive(edge - low, xp, 0.0)
    total = times * least + from_high
    return Run(
        gain=times * gain,
        low=lowest,
        high=highest,
        least=total,
        edge=times * least + edge + from_low - total,
    )


def stalls_of_cycle(run: Run, xp: Any = np, rounding: Any = 0.0) -> Any:
    """Seconds of stall in one of many repeats: the lead has settled where a repeat leaves it."""
    lead = xp.where(run.gain >= 0, run.high, run.low)
    return run.least + _positive(run.edge - lead, xp, rounding)


def _within(x: Any, run: Run, xp: Any) -> Any:
    return xp.minimum(run.high, xp.maximum(run.low, x))


def _positive(x: Any, xp: Any, rounding: Any) -> Any:
    """max(0, x); with rounding r > 0 (x + sqrt(x² + r²)) / 2, which is nowhere less."""
    if isinstance(rounding, float) and rounding == 0.0:
        return xp.maximum(x, 0.0)
    return 0.5 * (x + xp.sqrt(x * x + rounding * rounding))
