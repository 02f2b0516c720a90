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

from collections.abc import Iterator, Sequence
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
    gain, low, high, least, edge = second
    over_high = _positive(edge - first.high, xp, rounding)
    over_low = _positive(edge - first.low, xp, rounding)
    return Run(
        first.gain + gain,
        xp.minimum(high, xp.maximum(low, first.low + gain)),
        xp.minimum(high, xp.maximum(low, first.high + gain)),
        first.least + least + over_high,
        first.edge + over_low - over_high,
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


Step = tuple[float, float, float, float]  # of a lead: what it rises, up to where, the rest, its cap


def followed_by(run: Run, steps: Iterator[Step]) -> Run:
    """`run` and then moves of plain numbers, without an array or a record for each."""
    gain, low, high, least, edge = run
    if low < high:
        for rise, top, rest, cap in steps:
            low += rise
            high += rise
            if high > top:
                low, high = min(low, top), top
            low += rest
            high += rest
            if low < 0.0:
                if high < 0.0:
                    least -= high
                    edge += high
                    high = 0.0
                edge -= low
                low = 0.0
            if high > cap:
                low, high = min(low, cap), cap
            if low >= high:
                break
        else:
            return Run(low - edge, low, high, least, edge)
    # From here on it does not matter how the run began: there is one lead, and `gain` is not asked
    # for any more.
    lead = low
    for rise, top, rest, cap in steps:
        lead += rise
        lead = (lead if lead < top else top) + rest
        if lead < 0.0:
            least -= lead
            lead = 0.0
        elif lead > cap:
            lead = cap
    return Run(gain, lead, lead, least, edge)


class Port(NamedTuple):
    """How far a memory's port may be ahead, and how fast it is."""

    most_bytes: Any
    bytes_per_s: Any

    def rooms(self, ahead: Any, xp: Any = np) -> Any:
        """Seconds of lead at the most, where the next kernels need `ahead` bytes."""
        return xp.minimum(ahead, self.most_bytes) / self.bytes_per_s


class Moves(NamedTuple):
    """The lead's way through a schedule in as few moves as do.

    In a move some kernels can only raise the lead, and one more, the last, may lower it. The lead
    rises by their launches and by what all but the last have to spare, up to the room as the last
    one's arithmetic begins; then comes what the last has to spare, or lacks. What only raises, and
    leaves no more room one after the other, is one step of its sum:
    min(b, min(a, lead + x) + y) = min(b, lead + x + y) where x, y >= 0 and a >= b.
    """

    first: Any  # [moves]: rows
    last: Any  # [moves]: rows
    within: Any  # [rows] of 0 and 1: not the last of its move
    ahead: Any  # [2, moves]: bytes to be ahead by as the last's arithmetic begins, and as it ends
    runs: tuple[tuple[int, int], ...]  # (moves, repeats)

    def steps(
        self, before: Any, slack: Any, rooms: tuple[list[float], list[float]]
    ) -> Iterator[Step]:
        """Of each move, in seconds.

        before: [rows], of launches; slack: [rows], by which arithmetic takes longer than the port;
        rooms: `Port.rooms` of `ahead`, as lists.
        """
        rises = np.add.reduceat(before + slack * self.within, self.first)
        tops, caps = rooms
        return zip(rises.tolist(), tops, slack.take(self.last).tolist(), caps, strict=True)


def moves_of(runs: Sequence[windows.Run], ahead: Any, reads: Any) -> Moves:
    """The moves of rows that the port may be `ahead` [rows, 2] of, of which `reads` [rows] wait."""
    begin, end = ahead.T
    ends = reads | (end > begin)
    ends[:-1] |= begin[1:] > end[:-1]
    ends[[run.stop - 1 for run in runs]] = True
    last = np.flatnonzero(ends)
    return Moves(
        first=np.append(0, last[:-1] + 1),
        last=last,
        within=(~ends).astype(np.float64),
        ahead=np.stack((begin[last], end[last])),
        runs=tuple((int(ends[run.start : run.stop].sum()), run.repeats) for run in runs),
    )


def repeated(run: Run, times: Any, xp: Any = np) -> Run:
    """The same run `times` over (at least 1).

    From the largest lead the run is entered with high, then high + gain, …, down to low; from the
    smallest with low, low + gain, …, up to high. Below `low - gain` each missing second of lead is
    a second of stall, so that the stalls on the way down are what is lost less what was there.
    """
    gain, low, high, least, edge = run
    more = times - 1
    moved = more * gain
    lowest = xp.minimum(high, xp.maximum(low, low + moved))
    highest = xp.minimum(high, xp.maximum(low, high + moved))
    forgets = low >= high  # where it begins does not matter: all repeats after the first are alike
    downhill = xp.where(gain < 0, highest - high - moved, 0.0)
    from_high = xp.where(forgets, more * xp.maximum(edge - high, 0.0), downhill)
    from_low = more * xp.maximum(edge - low, 0.0)
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


def _positive(x: Any, xp: Any, rounding: Any) -> Any:
    """max(0, x); with rounding r > 0 (x + sqrt(x² + r²)) / 2, which is nowhere less."""
    if isinstance(rounding, float) and rounding == 0.0:
        return xp.maximum(x, 0.0)
    return 0.5 * (x + xp.sqrt(x * x + rounding * rounding))
