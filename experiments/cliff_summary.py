"""What the rows of a residency sweep say: how much faster on chip, up to where, and mixed.

All of it is arithmetic over measured medians. The *advantage* of a size is off-chip time over
on-chip time; the one that is quoted is that of the largest size that fits on chip, since the
largest of many noisy ones would be the luckiest. The *cliff* is the number of weight bytes at which
half of that advantage is gone, between two measured sizes by interpolation in the logarithm of
bytes. A mixed placement is held against *hot plus cold*: the same program's time with all weights
on chip and with all off chip, timed by turns with it, each for its share of the bytes; what a call
costs, which is most of a small step, is so counted once. Past the cache, where nothing tells what
the on-chip part would take alone, the halves of a model are held against smaller models.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.results import Row

SEEN = 1.15  # an advantage below this is none that this machine's noise would not make


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """One row: a model of so many layers, in one dtype, in one placement."""

    dtype: str
    layers: float  # whole layers' worth: thin ones are parts of one
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
    p99_all_s: float  # of all samples, the disturbed ones too
    count: int  # samples that the median is of
    samples: int  # all
    disturbed: int  # of these
    is_disturbed: bool  # too many of them were: don't trust this row
    metered: bool  # False: nothing is known of disturbance
    device_mean_s: float | None = None  # of many steps in one program
    one_memory: bool  # a CPU's memory kinds: both names are of the same memory
    scratchpad: bool = False  # steps in one kernel, and nothing that is on chip is ever evicted
    host_on_chip_s: float  # its products, as emu.host() measured them, and the rest of a step
    host_off_chip_s: float
    layer_count: int = 0  # whole or thin ones; 0: as many as `layers`
    predicted_s: float | None = None  # by `emu.predict`; None in rows of before it was recorded
    predicted_by_host_s: float | None = None  # without what was timed again; None where nothing was
    host: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # what that was made from
    now: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # an `emu.drift.Now`'s fields

    @property
    def bytes_per_s(self) -> float:
        """Weight bytes over the median."""
        return self.weight_bytes / self.seconds

    @property
    def half_layers(self) -> float:
        """Whole layers' worth of the first half of the layers, rounded down."""
        count = self.layer_count or int(self.layers)
        return self.layers / count * (count // 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixed:
    """A mixed placement, against the times of its on-chip and its off-chip part."""

    point: Point
    hot_s: float
    cold_s: float

    @property
    def past_the_cache(self) -> bool:
        """Whether both parts together exceed the capacity, so that the cold may evict the hot."""
        point = self.point
        return not point.scratchpad and point.weight_bytes > point.capacity_bytes

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
        p99_all_s=latency["p99_all_s"],
        count=latency["count"],
        samples=samples(latency),
        disturbed=latency["disturbed_count"],
        is_disturbed=latency["disturbed"],
        metered=latency["metered"],
        layer_count=m.get("layer_count", 0),
        predicted_s=m.get("predicted_s"),
        predicted_by_host_s=m.get("predicted_by_host_s"),
        host=m.get("host", {}),
        now=m.get("now", {}),
        device_mean_s=m.get("device_mean_s"),
        one_memory=m["pair"] == "memory-kind" and row["machine"]["backend"] == "cpu",
        scratchpad=m["pair"] == "persistent-kernel",
    )


def samples(latency: dict[str, Any]) -> int:
    """How many samples were taken: `count` are those that the median is of."""
    everything_was_disturbed = latency["disturbed_share"] == 1
    return int(latency["count"] + (0 if everything_was_disturbed else latency["disturbed_count"]))


def dtypes(points: Sequence[Point]) -> list[str]:
    """The dtypes that were measured, in the order of the rows."""
    return list(dict.fromkeys(p.dtype for p in points))


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
    """The pair that is quoted, of one dtype; None where no size has both placements."""
    return quoted(pairs(points, dtype))


def quoted(found: Sequence[tuple[Point, Point]]) -> tuple[Point, Point] | None:
    """The largest undisturbed size that fits on chip, of what `pairs` returns.

    Where all that fit were disturbed it is the largest of those, and where none fits the smallest
    size there is.
    """
    fitting = [pair for pair in found if not pair[0].excess_bytes]
    calm = [pair for pair in fitting if not disturbed(pair)]
    return next(iter([*reversed(calm), *reversed(fitting), *found]), None)


def disturbed(pair: tuple[Point, Point]) -> bool:
    """Whether either of the two is marked as disturbed."""
    return any(p.is_disturbed for p in pair)


def advantage(pair: tuple[Point, Point]) -> float:
    """Off-chip time over on-chip time, of equal bytes."""
    on, off = pair
    return off.seconds / on.seconds


def descent(found: Sequence[tuple[Point, Point]]) -> list[tuple[Point, Point]]:
    """The quoted pair and the larger ones after it, in which the cliff is looked for.

    Disturbed ones are left out, unless all of the larger ones are.
    """
    top = quoted(found)
    if top is None:
        return []
    larger = [pair for pair in found if pair[0].weight_bytes > top[0].weight_bytes]
    return [top, *([pair for pair in larger if not disturbed(pair)] or larger)]


def cliff_bytes(found: Sequence[tuple[Point, Point]]) -> float | None:
    """Weight bytes at which half of the quoted advantage is gone.

    Args:
      found: what `pairs` returns.

    Returns:
      None where there is no advantage to lose (below `SEEN`), and infinity where it is not lost
      at the largest size.
    """
    line = descent(found)
    if not line or advantage(line[0]) < SEEN:
        return None
    half = 1 + (advantage(line[0]) - 1) / 2
    for before, after in itertools.pairwise(line):
        if advantage(after) < half:
            share = (advantage(before) - half) / (advantage(before) - advantage(after))
            low, high = math.log(before[0].weight_bytes), math.log(after[0].weight_bytes)
            return math.exp(low + share * (high - low))
    return math.inf


Measured = Mapping[tuple[str, float, str], Point]  # by dtype, layers and placement


def mixed(points: Iterable[Point]) -> list[Mixed]:
    """Every mixed placement whose parts can be told from what was measured."""
    points = list(points)
    measured = {(p.dtype, p.layers, p.placement): p for p in points}
    found = []
    for p in points:
        if p.placement in ("on-chip", "off-chip"):
            continue
        parts = _shares(p, measured)
        if parts is None and p.placement == "half-on-chip":
            parts = _halves(p, measured)
        if parts is not None:
            found.append(Mixed(point=p, hot_s=parts[0], cold_s=parts[1]))
    return found


def _halves(p: Point, measured: Measured) -> tuple[float, float] | None:
    """Seconds of the first half of the layers alone on chip, and of the others alone off chip."""
    hot_layers = p.half_layers
    cold_layers = p.layers - hot_layers
    on_chip = [q for q in measured.values() if (q.dtype, q.placement) == (p.dtype, "on-chip")]
    hot = next((q for q in on_chip if math.isclose(q.layers, hot_layers)), None)
    off_chip = [q for q in measured.values() if (q.dtype, q.placement) == (p.dtype, "off-chip")]
    if hot is None or not off_chip:
        return None
    near = min(off_chip, key=lambda q: abs(q.layers - cold_layers))
    return hot.seconds, near.seconds / near.layers * cold_layers


def _shares(p: Point, measured: Measured) -> tuple[float, float] | None:
    """Seconds of the whole model on chip and off chip, each by its share of the bytes.

    Only where all of it fits on chip: beyond that the on-chip time of the whole is one of misses,
    and hot plus cold would be the measured time by construction.
    """
    on = measured.get((p.dtype, p.layers, "on-chip"))
    off = measured.get((p.dtype, p.layers, "off-chip"))
    if on is None or off is None or p.weight_bytes > p.capacity_bytes:
        return None
    share = p.on_chip_bytes / p.weight_bytes
    return share * on.seconds, (1 - share) * off.seconds
