"""Cases predicted by numbers that were fitted without them, and ranges made without them too.

A fold is a group of cases that a fit leaves out. Each is predicted by the fit without its fold, and
its 80 % range is made as any prediction's (`experiments.ranges`), of that fit's ranges and of how
far cases of *other* folds were off: those of its stack, or of all stacks where it has too few. How
much of the larger of the two is the range is found over all stacks' cases of other folds.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np

import emu
from experiments.case_errors import summary
from experiments.cases import Case, Placed
from experiments.ranges import range_of

ENOUGH = 5  # cases that say something of a stack by themselves
_SHARE = 0.8  # of cases within a range
_NOISY = 0.5  # of a case is what one of tier 3 counts for: its measurement is off as well


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fold:
    """See the module; `out` says in a word what its stack is without."""

    name: str
    cases: Sequence[str]
    out: str = ""
    apart: bool = False  # nothing of its chip and stack is left


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """One case, by numbers fitted without its fold."""

    case: Case
    fold: Fold
    seconds: float
    faster: float  # logarithms of the range's ends to the prediction, from the numbers alone
    slower: float

    @classmethod
    def of(cls, placed: Placed, system: emu.System, fold: Fold) -> "Prediction":
        """A case on the system that has the numbers of its fold."""
        stack = system.software
        stack = dataclasses.replace(
            stack,
            log_error=dataclasses.replace(stack.log_error, value=0.0),
            range_share=dataclasses.replace(stack.range_share, value=1.0),
        )
        bare = dataclasses.replace(system, stack=stack)
        found = range_of(placed.seconds, bare)
        seconds = placed.seconds(bare)
        return cls(
            case=placed.case,
            fold=fold,
            seconds=seconds,
            faster=math.log(seconds / found.low_s),
            slower=math.log(found.high_s / seconds),
        )

    @property
    def off(self) -> float:
        """log(predicted ÷ measured)."""
        return math.log(self.seconds / self.case.measured_s)


def own(table: Sequence[Prediction], stack: str) -> list[Prediction]:
    """A stack's cases, without those of tier 3 unless it has no others."""
    mine = [one for one in table if one.case.row["stack"] == stack]
    return [one for one in mine if one.case.tier < 3] or mine


def log_error(table: Sequence[Prediction], stack: str) -> float:
    """What eight of ten predictions with a stack are off by at most, logarithmically."""
    mine = own(table, stack)
    if len(mine) < ENOUGH:
        mine = [*mine, *(one for one in table if one.case.tier < 3)]
    return float(np.quantile([abs(one.off) for one in mine], _SHARE)) if mine else math.inf


def range_share(table: Sequence[Prediction]) -> float:
    """How much of the larger range holds eight of ten cases, at most 1; 1 where there are none."""
    needed = sorted((_needed(table, one), 1.0 if one.case.tier < 3 else _NOISY) for one in table)
    if not needed:
        return 1.0
    counts = np.cumsum([count for _, count in needed])
    return min(1.0, needed[int(np.searchsorted(counts, _SHARE * counts[-1]))][0])


def _needed(table: Sequence[Prediction], one: Prediction) -> float:
    """How much of the larger of its two ranges, to the side of the measurement, would do."""
    faster, slower = _widths(table, one)
    width = faster if one.off > 0 else slower
    return abs(one.off) / width if width else math.inf if one.off else 0.0


def _widths(table: Sequence[Prediction], one: Prediction) -> tuple[float, float]:
    """The larger of a case's two ranges, as logarithms to the faster and to the slower side."""
    left = log_error(_without(table, one.fold), one.case.row["stack"])
    return max(left, one.faster), max(left, one.slower)


def _without(table: Sequence[Prediction], fold: Fold) -> list[Prediction]:
    return [one for one in table if one.fold.name != fold.name]


def ends(table: Sequence[Prediction], one: Prediction) -> tuple[float, float]:
    """The 80 % range in seconds of a left-out case, made without its fold."""
    share = range_share(_without(table, one.fold))
    faster, slower = _widths(table, one)
    return one.seconds * math.exp(-share * faster), one.seconds * math.exp(share * slower)


def as_rows(table: Sequence[Prediction]) -> list[dict[str, str]]:
    """The cases with predicted_ms, low_ms, high_ms, error, and what they were left out with."""
    rows = []
    for one in table:
        low, high = ends(table, one)
        rows.append(
            one.case.row
            | {
                "predicted_ms": f"{one.seconds * 1e3:.4f}",
                "error": f"{one.seconds / one.case.measured_s - 1:.4f}",
                "low_ms": f"{low * 1e3:.4f}",
                "high_ms": f"{high * 1e3:.4f}",
                "fold": one.fold.name,
                "apart": str(one.fold.apart).lower(),
                "why": "",
            }
        )
    return rows


def coverage(rows: Sequence[dict[str, str]]) -> tuple[float, float]:
    """The share of rows whose measurement is in its range, and the median of high ÷ low."""
    low, at, high = (
        np.array([float(row[name]) for row in rows])
        for name in ("low_ms", "ms_per_token", "high_ms")
    )
    return float(np.mean((low <= at) & (at <= high))), float(np.median(high / low))


def report(table: Sequence[Prediction]) -> Iterator[str]:
    """Lines for the terminal."""
    rows = as_rows(table)
    together = [row for row in rows if row["apart"] != "true"]
    apart = [row for row in rows if row["apart"] == "true"]
    yield from summary(together)
    for name, tiers in (("tiers 1 and 2", "12"), ("all", "123")):
        inside, width = coverage([row for row in together if row["tier"] in tiers])
        yield (
            f"80 % ranges over {name}: {inside:.0%} of cases are inside, and half of the ranges "
            f"are wider than a factor of {width:.2f}"
        )
    if apart:
        yield "apart: nothing of their chip and stack is left without them"
        yield from summary(apart)
