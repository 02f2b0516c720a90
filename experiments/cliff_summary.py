"""What the rows of a residency sweep say: how much faster on chip, up to where, and mixed.

All of it is arithmetic over measured medians. The *advantage* of a size is off-chip time over
on-chip time. The *cliff* is the number of weight bytes at which half of the best advantage is
gone, between two measured sizes by interpolation in the logarithm of bytes. A mixed placement is
held against *hot plus cold*: the on-chip time of the same model, for the share of its bytes that
lies on chip, plus the off-chip time for the rest.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

from experiments.results import Row

SEEN = 1.15  # an advantage below this is none that this machine's noise would not make


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """One row: a model of so many layers, in one dtype, in one placement."""

    dtype: str
    layers: int
    placement: str
    on_chip: str  # the names of the two memories
    off_chip: str
    weight_bytes: int
    on_chip_bytes: int
    excess_bytes: int  # of the on-chip memory's capacity
    capacity_bytes: int
    seconds: float  # median of a decode step
    p10_s: float
    p90_s: float
    p99_s: float
    samples: int
    disturbed: int  # of these
    host_on_chip_s: float  # its products, as emu.host() measured them, and the rest of a step
    host_off_chip_s: float

    @property
    def bytes_per_s(self) -> float:
        """Weight bytes over the median."""
        return self.weight_bytes / self.seconds


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixed:
    """A mixed placement, against the same model's on-chip and off-chip times."""

    point: Point
    hot_s: float
    cold_s: float

    @property
    def ratio(self) -> float:
        """Measured over hot plus cold."""
        return self.point.seconds / (self.hot_s + self.cold_s)


def point(row: Row) -> Point:
    """The point of a `residency_cliff` row."""
    m: dict[str, Any] = row["measured"]
    latency = m["latency"]
    return Point(
        **{
            name: m[name]
            for name in (
                "dtype",
                "layers",
                "placement",
                "on_chip",
                "off_chip",
                "weight_bytes",
                "on_chip_bytes",
                "excess_bytes",
                "capacity_bytes",
                "host_on_chip_s",
                "host_off_chip_s",
            )
        },
        seconds=latency["median_s"],
        p10_s=latency["p10_s"],
        p90_s=latency["p90_s"],
        p99_s=latency["p99_s"],
        samples=samples(latency),
        disturbed=latency["disturbed_count"],
    )


def samples(latency: dict[str, Any]) -> int:
    """How many samples were taken: `count` are those that the median is of."""
    everything_was_disturbed = latency["disturbed_share"] == 1
    return int(latency["count"] + (0 if everything_was_disturbed else latency["disturbed_count"]))


def curve(points: Iterable[Point], dtype: str, placement: str) -> list[Point]:
    """One dtype in one placement, by rising bytes."""
    found = [p for p in points if p.dtype == dtype and p.placement == placement]
    return sorted(found, key=lambda p: p.weight_bytes)


def pairs(points: Iterable[Point], dtype: str) -> list[tuple[Point, Point]]:
    """The on-chip and the off-chip point of every size that has both, by rising bytes."""
    points = list(points)
    off = {p.layers: p for p in curve(points, dtype, "off-chip")}
    return [(p, off[p.layers]) for p in curve(points, dtype, "on-chip") if p.layers in off]


def best(points: Iterable[Point], dtype: str) -> tuple[Point, Point] | None:
    """The pair with the largest advantage among the sizes that fit on chip, or among all."""
    found = pairs(points, dtype)
    fitting = [pair for pair in found if not pair[0].excess_bytes] or found
    return max(fitting, key=advantage, default=None)


def advantage(pair: tuple[Point, Point]) -> float:
    """Off-chip time over on-chip time, of equal bytes."""
    on, off = pair
    return off.seconds / on.seconds


def cliff_bytes(found: Sequence[tuple[Point, Point]]) -> float | None:
    """Weight bytes at which half of the best advantage is gone.

    Args:
      found: what `pairs` returns.

    Returns:
      None where there is no advantage to lose (below `SEEN`), and infinity where it is not lost
      at the largest size.
    """
    if not found:
        return None
    top = max(range(len(found)), key=lambda i: advantage(found[i]))
    if advantage(found[top]) < SEEN:
        return None
    half = 1 + (advantage(found[top]) - 1) / 2
    for before, after in zip(found[top:], found[top + 1 :], strict=False):
        if advantage(after) < half:
            share = (advantage(before) - half) / (advantage(before) - advantage(after))
            low, high = math.log(before[0].weight_bytes), math.log(after[0].weight_bytes)
            return math.exp(low + share * (high - low))
    return math.inf


def mixed(points: Iterable[Point]) -> list[Mixed]:
    """Every mixed placement whose on-chip and off-chip times were measured too."""
    points = list(points)
    whole = {(p.dtype, p.layers, p.placement): p for p in points}
    found = []
    for p in points:
        on = whole.get((p.dtype, p.layers, "on-chip"))
        off = whole.get((p.dtype, p.layers, "off-chip"))
        if p.placement in ("on-chip", "off-chip") or on is None or off is None:
            continue
        share = p.on_chip_bytes / p.weight_bytes
        found.append(Mixed(point=p, hot_s=share * on.seconds, cold_s=(1 - share) * off.seconds))
    return found
