"""Counts at any batch and context, from traces at a few.

What a decode step counts is linear in its batch, in its context, and in their product, but for
bends: a sliding window stops growing where the context reaches it, and the experts that a batch
touches follow a curve. So the grid of asked batches and contexts is cut into cells in which every
count is taken to be bilinear between the four corners. A cell is accepted when direct traces at its
middle, and next to its first corner, agree with the interpolation to one unit or a part in 10⁹
(counts are whole numbers); else it is cut, at the bend where two straight lines meet, or in the
middle. In the worst case (experts, over batches) every asked batch is a cell of its own, and
nothing is interpolated over it. No number is ever extrapolated.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from emu.design.counts import Array, Counts

CountsAt = Callable[[int, int], Counts]  # of a batch and a context

_UNIT = 1.0 + 1e-6
_RELATIVE = 1e-9


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Cell:
    """Asked batches and contexts between whose ends counts are bilinear."""

    batches: tuple[int, ...]
    contexts: tuple[int, ...]
    # (first batch, first context), (first, last), (last, first), (last, last)
    corners: tuple[Counts, Counts, Counts, Counts]

    @property
    def layout(self) -> object:
        """Of all its counts."""
        return self.corners[0].layout

    def weights(self, batch: Array, context: Array) -> Array:
        """[4, …]: how much of each corner there is in the counts of each point."""
        b = _between(batch, self.batches[0], self.batches[-1])
        c = _between(context, self.contexts[0], self.contexts[-1])
        return np.stack([(1 - b) * (1 - c), (1 - b) * c, b * (1 - c), b * c])

    def at(self, batch: int, context: int) -> Array:
        """(rows, totals) of one point, interpolated."""
        weights = self.weights(np.float64(batch), np.float64(context))
        rows = np.tensordot(weights, np.stack([c.rows for c in self.corners]), 1)
        return rows, np.tensordot(weights, np.stack([c.totals for c in self.corners]), 1)


def cells(counts_at: CountsAt, batches: Sequence[int], contexts: Sequence[int]) -> tuple[Cell, ...]:
    """The cells of a grid.

    Args:
      counts_at: direct counts; asked again for the same point, it should remember.
      batches, contexts: rising, each at least once.
    """
    known: dict[tuple[int, int], Counts] = {}

    def at(batch: int, context: int) -> Counts:
        if (batch, context) not in known:
            known[batch, context] = counts_at(batch, context)
        return known[batch, context]

    waiting = [(tuple(batches), tuple(contexts))]
    found = []
    while waiting:
        bs, cs = waiting.pop()
        cut = _cut(at, bs, cs)
        if isinstance(cut, Cell):
            found.append(cut)
        else:
            waiting += cut
    return tuple(sorted(found, key=lambda cell: (cell.batches[0], cell.contexts[0])))


def _cut(
    at: CountsAt, bs: tuple[int, ...], cs: tuple[int, ...]
) -> Cell | list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The cell, or the two parts that it must be cut into."""
    # Along one axis first: where it bends there, the other need not be looked at.
    if len(cs) > 1 and not _is_straight(at, bs[:1], cs):
        place = _bend(at, bs[0], cs)
        return [(bs, cs[:place]), (bs, cs[place:])]
    if len(bs) > 1 and not _is_straight(at, bs, cs[:1]):
        return [(bs[: len(bs) // 2], cs), (bs[len(bs) // 2 :], cs)]
    if len(bs) > 1 and len(cs) > 1 and not _is_straight(at, bs, cs):
        return [(bs[: len(bs) // 2], cs), (bs[len(bs) // 2 :], cs)]
    return _cell(at, bs, cs)


def _cell(at: CountsAt, bs: tuple[int, ...], cs: tuple[int, ...]) -> Cell:
    corners = (at(bs[0], cs[0]), at(bs[0], cs[-1]), at(bs[-1], cs[0]), at(bs[-1], cs[-1]))
    return Cell(batches=bs, contexts=cs, corners=corners)


def _is_straight(at: CountsAt, bs: tuple[int, ...], cs: tuple[int, ...]) -> bool:
    """Whether interpolation between the corners is right where it is looked at."""
    cell = _cell(at, bs, cs)
    if any(corner.layout != cell.layout for corner in cell.corners):
        return False
    for b, c in {(_middle(bs), _middle(cs)), (bs[min(1, len(bs) - 1)], cs[min(1, len(cs) - 1)])}:
        direct = at(b, c)
        if direct.layout != cell.layout:
            return False
        rows, totals = cell.at(b, c)
        if not (_same(rows, direct.rows) and _same(totals, direct.totals)):
            return False
    return True


def _bend(at: CountsAt, batch: int, cs: tuple[int, ...]) -> int:
    """At which of the contexts to begin the second part."""
    half = len(cs) // 2
    first, second = at(batch, cs[0]), at(batch, cs[1])
    last, before = at(batch, cs[-1]), at(batch, cs[-2])
    if len(cs) < 4 or len({c.layout for c in (first, second, last, before)}) > 1:
        return half
    low = (_all(second) - _all(first)) / (cs[1] - cs[0])
    high = (_all(last) - _all(before)) / (cs[-1] - cs[-2])
    i = int(np.argmax(np.abs(high - low)))
    if high[i] == low[i]:
        return half
    # Where the line through the first two meets the line through the last two.
    starts, ends = _all(first)[i] - low[i] * cs[0], _all(last)[i] - high[i] * cs[-1]
    meets = (ends - starts) / (low[i] - high[i])
    place = int(np.searchsorted(cs, meets, side="right"))
    return place if 0 < place < len(cs) else half


def _all(counts: Counts) -> Array:
    return np.concatenate((counts.rows.ravel(), counts.totals))


def _same(a: Array, b: Array) -> bool:
    return bool(np.all(np.abs(a - b) <= _UNIT + _RELATIVE * np.abs(b)))


def _middle(values: tuple[int, ...]) -> int:
    return values[len(values) // 2]


def _between(x: Array, low: int, high: int) -> Array:
    return (x - low) / (high - low) if high > low else 0.0 * x
