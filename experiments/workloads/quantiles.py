"""A distribution through its published percentiles, and nothing more than that.

Between the percentiles the logarithm of the value is interpolated over the normal quantile of the
share, by a monotone cubic (PCHIP, Fritsch and Carlson 1980): exact at each percentile, straight for
a log-normal, never with a bump that nobody published. Beyond the outermost points the value stays:
a tail is what its `assumed` points say.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from scipy.special import ndtri

from experiments.errors import ExperimentError

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Percentile:
    """One point: this share of the values is at most this large."""

    share: float
    value: float
    kind: str  # "measured", by the source; "assumed", by us
    source: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantiles:
    """See the module; the points rise in share and in value, and there are two at least."""

    name: str
    points: tuple[Percentile, ...]

    def __post_init__(self) -> None:
        shares = [point.share for point in self.points]
        values = [point.value for point in self.points]
        if len(shares) < 2 or shares != sorted(set(shares)) or not 0 < shares[0] < shares[-1] < 1:
            raise ExperimentError(
                f"{self.name}: percentiles are two or more, and rise between 0 and 1: {shares}"
            )
        if values != sorted(values) or values[0] <= 0:
            raise ExperimentError(f"{self.name}: values are positive and do not fall: {values}")

    def at(self, share: Any) -> Array:
        """The value at each share (from 0 to 1)."""
        z = np.clip(ndtri(np.asarray(share, np.float64)), *self._ends)
        return np.asarray(np.exp(self._curve(z)), np.float64)

    def mean(self, points: int = 200_000) -> float:
        """Of the whole distribution, tails as assumed."""
        return float(self.at((np.arange(points) + 0.5) / points).mean())

    @functools.cached_property
    def _ends(self) -> tuple[float, float]:
        return float(ndtri(self.points[0].share)), float(ndtri(self.points[-1].share))

    @functools.cached_property
    def _curve(self) -> Callable[[Array], Array]:
        shares = np.array([point.share for point in self.points])
        values = np.array([point.value for point in self.points])
        curve: Callable[[Array], Array] = PchipInterpolator(ndtri(shares), np.log(values))
        return curve
