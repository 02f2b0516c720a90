"""Counts at any batch and context, from traces at a few.

What a decode step counts is linear in its batch, in its context, and in their product, but for
bends and curves: a sliding window stops growing where the context reaches it, and the experts that
a batch touches follow a curve. So the grid of asked batches and contexts is cut into cells in which
every count is taken to be bilinear between the four corners. Where counts follow a curve over
batches, each batch is traced at one context c₀, and what they are off a straight line there is
added at every context (a Boolean sum, as of Gordon, 1971):

    n(b, c) = bilinear(b, c) + [n(b, c₀) − linear(b, c₀)].

A cell is accepted when direct traces at its middle, and next to its first corner, agree with the
interpolation to one unit or a part in 10⁹ (counts are whole numbers); else it is cut, at the bend
where two straight lines meet, where kernels change, or in the middle. No number is ever
extrapolated.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from emu.design.counts import Array, Counts

CountsAt = Callable[[int, int], Counts]  # of a batch and a context

_UNIT = 1.0 + 1e-6
_RELATIVE = 1e-9


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Cell:
    """Asked batches and contexts between whose ends counts are interpolated."""

    batches: tuple[int, ...]
    contexts: tuple[int, ...]
    # (first batch, first context), (first, last), (last, first), (last, last)
    corners: tuple[Counts, Counts, Counts, Counts]
    curve: tuple[Counts, ...] = ()  # of every batch at one context, where batches make a curve

    @property
    def layout(self) -> object:
        """Of all its counts."""
        return self.corners[0].layout

    @property
    def nodes(self) -> tuple[Counts, ...]:
        """What was traced of it."""
        return (*self.corners, *self.curve)

    def weights(self, batch: Array, context: Array) -> Array:
        """[nodes, …]: how much of each node there is in the counts of each point."""
        b = _between(batch, self.batches[0], self.batches[-1])
        c = _between(context, self.contexts[0], self.contexts[-1])
        corners = [(1 - b) * (1 - c), (1 - b) * c, b * (1 - c), b * c]
        off_line = [1.0 * (batch == one) for one in self.batches] if self.curve else []
        if off_line:
            off_line[0] = off_line[0] - (1 - b)
            off_line[-1] = off_line[-1] - b
        return np.stack([*corners, *off_line])

    def at(self, batch: Array, context: Array) -> tuple[Array, Array]:
        """(rows [kernels, columns, …], totals [totals, …]) of points, interpolated."""
        weights = self.weights(np.asarray(batch, np.float64), np.asarray(context, np.float64))
        rows, totals = self._stacked
        return np.tensordot(rows, weights, 1), np.tensordot(totals, weights, 1)

    @functools.cached_property
    def _stacked(self) -> tuple[Array, Array]:
        rows = np.stack([node.rows for node in self.nodes], -1)
        return rows, np.stack([node.totals for node in self.nodes], -1)


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
        cut = _cut(at, bs, cs, contexts[0])
        if isinstance(cut, Cell):
            found.append(cut)
        else:
            waiting += cut
    return tuple(sorted(found, key=lambda cell: (cell.batches[0], cell.contexts[0])))


def _cut(
    at: CountsAt, bs: tuple[int, ...], cs: tuple[int, ...], first: int
) -> Cell | list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The cell, or the two parts that it must be cut into. first: the context of other curves."""
    # Along one axis first: where it bends there, the other need not be looked at.
    if len(cs) > 1 and not _is_right(at, _cell(at, bs[:1], cs)):
        place = _bend(at, bs[0], cs)
        return [(bs, cs[:place]), (bs, cs[place:])]
    half = len(bs) // 2
    if _is_right(at, _cell(at, bs, cs[:1])):
        cell = _cell(at, bs, cs)
        if _is_right(at, cell):
            return cell
    elif not any(
        len(b) > 2 and _is_right(at, _cell(at, b, cs[:1])) for b in (bs[:half], bs[half:])
    ):
        for curve_at in dict.fromkeys((first, cs[0])):
            cell = _cell(at, bs, cs, curve_at)
            if _is_right(at, cell):
                return cell
            changed = [node.layout != cell.curve[0].layout for node in cell.curve]
            half = changed.index(True) if any(changed) else half
    return [(bs[:half], cs), (bs[half:], cs)]


def _cell(
    at: CountsAt, bs: tuple[int, ...], cs: tuple[int, ...], curve_at: int | None = None
) -> Cell:
    corners = (at(bs[0], cs[0]), at(bs[0], cs[-1]), at(bs[-1], cs[0]), at(bs[-1], cs[-1]))
    curve = () if curve_at is None else tuple(at(b, curve_at) for b in bs)
    return Cell(batches=bs, contexts=cs, corners=corners, curve=curve)


def _is_right(at: CountsAt, cell: Cell) -> bool:
    """Whether interpolation between its nodes is right where it is looked at."""
    if any(node.layout != cell.layout for node in cell.nodes):
        return False
    bs, cs = cell.batches, cell.contexts
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
