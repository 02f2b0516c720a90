"""Fit numbers of chips and stacks to measured times, in log space, with priors.

Minimises, over the logarithms θ of the numbers,

    Σ soft(log(predicted ÷ measured) ÷ log_error) + Σ ((θ - log prior) ÷ spread)²

with soft(r) = r² where a measurement is about as far off as is expected of it, and growing like |r|
where it is much farther (2·c²·(√(1 + r²/c²) - 1), c = 1.5), so that few bad measurements do not
decide. Gradients go through the differentiable clock, one program for all measurements that differ
in constants alone (`emu.alike`). The optimiser is optax's L-BFGS, in coordinates in which the
curvature at the start is one, with steps halved until they help. With each number comes its 80 %
range, from the curvature at the end.

To fit a stack of one's own: a function from the free numbers to seconds, for each measurement.

    def seconds(values):                          # traced by JAX: no float(…) of them
        share, kernel_s = values
        stack = dataclasses.replace(emu.stack("ideal"),
            off_chip_share=emu.Sourced(value=share, source="fitted", kind="fitted"),
            per_kernel_s=emu.Sourced(value=kernel_s, source="fitted", kind="fitted"))
        return emu.predict(work, dataclasses.replace(system, stack=stack), placement).seconds

    fit([Parameter(name="share", prior=0.8, spread=0.2, most=1.0),
         Parameter(name="kernel_s", prior=3e-6, spread=0.5)],
        [Measurement(seconds=seconds, measured_s=0.0095), ...])
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from emu.alike import Gradient, gradient_of
from emu.errors import EmuError

Array = Any
Seconds = Callable[[Array], Any]

_SOFT = 1.5  # deviations beyond which a measurement counts less
_EIGHTY_PERCENT = 1.2816  # standard deviations
_HALVINGS = 12
_LONGEST = 2.0  # a step of any number's logarithm
_SETTLED = 1e-9  # of the loss: what a step must gain
_NEAREST = 1e-6  # logarithms below a bound, from where a number can still move

_OPTIMISER = optax.chain(optax.scale_by_lbfgs(memory_size=20), optax.scale(-1.0))
_update = jax.jit(_OPTIMISER.update)


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


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Measurement:
    """One measured time, and what predicts it.

    `seconds` takes the values of all parameters, a traced array [parameters]. A time that several
    steps add up to is a sequence of (how many, seconds of one).
    """

    seconds: Seconds | Sequence[tuple[float, Seconds]]
    measured_s: float
    log_error: float = 0.05  # of predicted ÷ measured, as is expected at best

    def __post_init__(self) -> None:
        if not (self.measured_s > 0 and self.log_error > 0):
            raise EmuError(
                "calibrate: a measurement needs seconds above 0 and a log_error above 0, not "
                f"{self.measured_s} and {self.log_error}"
            )

    @functools.cached_property
    def terms(self) -> tuple[tuple[float, Seconds], ...]:
        """What adds up to the time."""
        return ((1.0, self.seconds),) if callable(self.seconds) else tuple(self.seconds)

    def predicted(self, logs: Array) -> tuple[float, Array]:
        """The logarithm of the predicted seconds, and its slopes [parameters]."""
        total, slopes = 0.0, np.zeros(len(logs))
        for times, seconds in self.terms:
            one, slope = _clock(seconds, len(logs))(logs)
            total += times * one
            slopes += times * slope
        if not (math.isfinite(total) and total > 0):
            raise EmuError(f"calibrate: {total} seconds were predicted for {self.measured_s}")
        return math.log(total), slopes / total


@functools.cache
def _clock(seconds: Seconds, count: int) -> Gradient:
    return gradient_of(lambda logs: jnp.asarray(seconds(jnp.exp(logs)), jnp.float64), count)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit:
    """Values, the ends of their 80 % ranges, and the measurements' logarithmic errors."""

    values: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    errors: tuple[float, ...]  # log(predicted ÷ measured)
    loss: float  # what was minimised
    steps: int


def fit(
    parameters: Sequence[Parameter],
    measurements: Sequence[Measurement],
    *,
    start: Sequence[float] | None = None,
    steps: int = 100,
) -> Fit:
    """The parameters' values.

    Args:
      parameters: what is free.
      measurements: what to fit to. Those of an earlier call are not compiled again.
      start: values to begin from; None: the priors.
      steps: at most so many.

    Raises:
      EmuError: no parameters, a start that is not one positive number for each of them.
    """
    if not parameters:
        raise EmuError("calibrate: there is nothing to fit; give at least one Parameter")
    begin = [p.prior for p in parameters] if start is None else list(start)
    if len(begin) != len(parameters) or not all(value > 0 for value in begin):
        raise EmuError("calibrate: start needs one positive value for each parameter")
    problem = _Problem(parameters, measurements)
    at = problem.evaluated(problem.free(np.log(begin)))
    with jax.enable_x64(True):
        at, taken = _minimised(problem, at, steps)
    width = _EIGHTY_PERCENT * np.sqrt(np.diag(np.linalg.inv(problem.in_logs(at.logs))))
    most = np.maximum(problem.most, at.logs)
    return Fit(
        values=tuple(np.exp(at.logs).tolist()),
        low=tuple(np.exp(at.logs - width).tolist()),
        high=tuple(np.exp(np.minimum(at.logs + width, most)).tolist()),
        errors=tuple(at.errors.tolist()),
        loss=at.loss,
        steps=taken,
    )


def _minimised(problem: "_Problem", at: "_Point", steps: int) -> tuple["_Point", int]:
    """L-BFGS, begun anew from where it is when no step helps any more: the last point, and steps.

    Its coordinates are those in which the curvature where it begins is one.
    """
    taken = 0
    while taken < steps:
        origin, here = at.free, np.zeros(len(at.free))
        scale = np.linalg.inv(np.linalg.cholesky(at.curvature)).T
        state = _OPTIMISER.init(jnp.asarray(here))
        began = at.loss
        while taken < steps:
            slope = jnp.asarray(scale.T @ at.slope)
            updates, state = _update(slope, state, jnp.asarray(here))
            step = np.asarray(updates)
            step = step * min(1.0, _LONGEST / max(np.abs(scale @ step).max(), 1e-300))
            tries = (here + step / 2**n for n in range(_HALVINGS))
            points = ((problem.evaluated(origin + scale @ there), there) for there in tries)
            better = next(((one, there) for one, there in points if one.loss < at.loss), None)
            if better is None:
                break
            taken += 1
            gained = at.loss - better[0].loss
            at, here = better
            if gained < _SETTLED * max(at.loss, 1.0):
                break
        if began - at.loss < _SETTLED * max(at.loss, 1.0):
            break
    return at, taken


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Point:
    """The problem at one point; `free` are coordinates without bounds."""

    free: Array
    logs: Array
    errors: Array
    loss: float
    slope: Array  # of the loss, by `free`
    curvature: Array  # the Gauss-Newton matrix, by `free`


class _Problem:
    """The loss. A bounded number's logarithm is most - log(1 + exp(-free)), others' is free."""

    def __init__(
        self, parameters: Sequence[Parameter], measurements: Sequence[Measurement]
    ) -> None:
        self.measurements = measurements
        self.prior = np.log([p.prior for p in parameters])
        self.spread = np.array([p.spread for p in parameters])
        self.most = np.array([math.inf if p.most is None else math.log(p.most) for p in parameters])
        self.bounded = np.isfinite(self.most)
        self.target = np.log([m.measured_s for m in measurements])
        self.weight = 1.0 / np.array([m.log_error for m in measurements])

    def free(self, logs: Array) -> Array:
        """The coordinates of a point."""
        room = np.where(self.bounded, np.maximum(self.most - logs, _NEAREST), 1.0)
        return np.where(self.bounded, -np.log(np.expm1(room)), logs)

    def evaluated(self, free: Array) -> _Point:
        """Loss, slope and curvature."""
        below = np.where(self.bounded, np.logaddexp(0.0, -free), 0.0)
        logs = np.where(self.bounded, np.where(self.bounded, self.most, 0.0) - below, free)
        chain = np.where(self.bounded, -np.expm1(-below), 1.0)
        errors, slopes = self._errors(logs)
        off = errors * self.weight
        soft = np.sqrt(1.0 + (off / _SOFT) ** 2)
        from_prior = (logs - self.prior) / self.spread
        loss = 2.0 * _SOFT**2 * np.sum(soft - 1.0) + from_prior @ from_prior
        slope = 2.0 * (slopes.T @ (self.weight * off / soft) + from_prior / self.spread)
        curvature = 2.0 * self._gauss_newton(slopes, soft)
        return _Point(
            free=free,
            logs=logs,
            errors=errors,
            loss=float(loss),
            slope=slope * chain,
            curvature=curvature * np.outer(chain, chain)
            + np.diag(np.where(self.bounded, 1e-9, 0.0)),
        )

    def in_logs(self, logs: Array) -> Array:
        """The curvature by the numbers' logarithms: the inverse of their covariance."""
        errors, slopes = self._errors(logs)
        return self._gauss_newton(slopes, np.sqrt(1.0 + (errors * self.weight / _SOFT) ** 2))

    def _gauss_newton(self, slopes: Array, soft: Array) -> Array:
        scaled = slopes * (self.weight / np.sqrt(soft))[:, None]
        return scaled.T @ scaled + np.diag(self.spread**-2.0)

    def _errors(self, logs: Array) -> tuple[Array, Array]:
        rows = [measurement.predicted(logs) for measurement in self.measurements]
        predicted = np.array([row[0] for row in rows])
        slopes = np.array([row[1] for row in rows]).reshape(len(rows), len(logs))
        return predicted - self.target, slopes
