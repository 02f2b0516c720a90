"""Fit numbers of chips and stacks to measured times, in log space, with priors.

Minimises  Σ (weight · log(predicted ÷ measured))², softened where a row is far off, plus
Σ (log(x ÷ prior) ÷ spread)²  by Gauss-Newton steps with bounds. Slopes are differences of the exact
clock, over the numbers that a row depends on: a few milliseconds a row, where a gradient through
JAX would first be compiled for each. With each number comes its 80 % range, from the curvature at
the end.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import least_squares

from emu.errors import EmuError

_STEP = 1e-4  # in log space
_EIGHTY_PERCENT = 1.2816  # standard deviations


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parameter:
    """One number; `spread` is the standard deviation of its logarithm before any data."""

    name: str
    prior: float
    spread: float
    most: float | None = None

    def __post_init__(self) -> None:
        if not (self.prior > 0 and self.spread > 0):
            raise EmuError(f"calibrate: {self.name!r} needs a positive prior and spread")
        if self.most is not None and self.prior > self.most:
            raise EmuError(f"calibrate: {self.name!r}: its prior is above {self.most}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit:
    """Values, the ends of their 80 % ranges, and the rows' logarithmic errors."""

    values: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    errors: tuple[float, ...]


def fit(
    parameters: Sequence[Parameter],
    *,
    seconds: Sequence[Callable[[Sequence[float]], float]],
    measured_s: Sequence[float],
    weights: Sequence[float],
    touches: Sequence[Sequence[bool]],
    start: Sequence[float] | None = None,
    steps: int = 20,
) -> Fit:
    """The parameters' values.

    Args:
      parameters: what is free.
      seconds: for each row, its predicted seconds from the parameters' values.
      measured_s: for each row.
      weights: for each row; 1 ÷ the logarithmic error that is expected of it.
      touches: for each row, which parameters it depends on at all.
      start: values to begin from; None: the priors.
      steps: at most so many.
    """
    if not len(seconds) == len(measured_s) == len(weights) == len(touches):
        raise EmuError("calibrate: every row needs its seconds, measurement, weight and parameters")
    prior = np.log([p.prior for p in parameters])
    spread = np.array([p.spread for p in parameters])
    most = np.array([math.inf if p.most is None else math.log(p.most) + 1e-12 for p in parameters])
    weight, target = np.array(weights), np.log(measured_s)

    def logs(at: np.ndarray) -> np.ndarray:
        values = np.exp(at)
        return np.log([row(values) for row in seconds])

    def residuals(at: np.ndarray) -> np.ndarray:
        return np.concatenate(((logs(at) - target) * weight, (at - prior) / spread))

    def slopes(at: np.ndarray) -> np.ndarray:
        found = np.zeros((len(seconds) + len(prior), len(prior)))
        for i, (row, touched) in enumerate(zip(seconds, touches, strict=True)):
            base = math.log(row(np.exp(at)))
            for j in np.flatnonzero(touched):
                moved = at.copy()
                moved[j] -= _STEP  # downwards: a share may be at its bound
                found[i, j] = (base - math.log(row(np.exp(moved)))) / _STEP * weight[i]
        found[len(seconds) :] = np.diag(1.0 / spread)
        return found

    done = least_squares(
        residuals,
        np.minimum(prior if start is None else np.log(start), most - 1e-9),
        jac=slopes,
        bounds=(np.full(len(prior), -np.inf), most),
        loss="soft_l1",
        f_scale=1.5,
        x_scale=spread,
        max_nfev=steps,
    )
    curvature = slopes(done.x)
    deviation = np.sqrt(np.diag(np.linalg.inv(curvature.T @ curvature)))
    width = _EIGHTY_PERCENT * deviation
    return Fit(
        values=tuple(np.exp(done.x).tolist()),
        low=tuple(np.exp(done.x - width).tolist()),
        high=tuple(np.exp(np.minimum(done.x + width, np.maximum(most, done.x))).tolist()),
        errors=tuple((logs(done.x) - target).tolist()),
    )
