"""Where a cache ends: the knee in the time of reading a growing set of bytes again and again.

A virtual machine often tells of a cache that it does not have, or has to share. What counts is
what a process gets, so it is read off the wall clock. While the set fits, a byte takes the time of
a hit; when it is far too large, that of a miss; between the two the time says which share missed:
(t - hit) / (miss - hit).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

# The cache's usable capacity is the largest set of which fewer than this share misses …
MISSING = 0.1
# … and it still holds a part of every set until this share misses.
GONE = 0.75  # noise hides the rest
# A miss that takes less than this many times a hit is no edge, only noise.
VISIBLE = 1.2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Edge:
    """What the knee says."""

    capacity_bytes: float  # the largest set that stays
    reach_bytes: float  # the largest set of which anything stays
    hit_s_per_byte: float
    miss_s_per_byte: float


def edge(set_bytes: Sequence[float], s_per_byte: Sequence[float]) -> Edge | None:
    """The edge in seconds per byte against bytes of the set; None where there is none to be seen.

    `set_bytes` rise, from well inside the cache to far beyond it. A hit's time is the lower
    quartile's of the smaller half of the sets, a miss's the median of the three largest. A time
    that a disturbance made too long is overruled by a shorter one of a larger set, which must have
    missed more.
    """
    sizes, times = np.asarray(set_bytes, np.float64), np.asarray(s_per_byte, np.float64)
    assert len(sizes) == len(times) >= 6 and np.all(np.diff(sizes) > 0)  # noqa: PT018
    hit = float(np.quantile(times[: len(times) // 2], 0.25))
    miss = float(np.median(times[-3:]))
    if miss < VISIBLE * hit:
        return None
    share = np.clip((times - hit) / (miss - hit), 0.0, 1.0)
    share = np.minimum.accumulate(share[::-1])[::-1]  # rising
    return Edge(
        capacity_bytes=_crossing(sizes, share, MISSING),
        reach_bytes=_crossing(sizes, share, GONE),
        hit_s_per_byte=hit,
        miss_s_per_byte=miss,
    )


def _crossing(sizes: np.ndarray, share: np.ndarray, level: float) -> float:
    """The size at which a rising share passes a level, between the sizes on a straight line."""
    after = int(np.argmax(share >= level)) if np.any(share >= level) else len(share) - 1
    if after == 0:
        return float(sizes[0])
    low, high = share[after - 1], share[after]
    part = min(max((level - low) / (high - low), 0.0), 1.0) if high > low else 1.0
    return float(sizes[after - 1] + part * (sizes[after] - sizes[after - 1]))
