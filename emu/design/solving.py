"""Inverse design: the cheapest numbers with which a step takes no longer than it may.

    minimise log cost(x)   with   log t(x) ≤ log target,   log needed ≤ log capacity(x),   l ≤ x ≤ u

over the free numbers x, in their logarithms, by Adam (optax) on the augmented Lagrangian (Hestenes,
1969; Powell, 1969; Rockafellar, 1973), through the clock of `emu.predict`. Bounds are kept by
writing each logarithm as a sigmoid between its ends. The clock's corners are rounded, more at first
and hardly at the end, so that a number which almost binds is seen; what is rounded is never faster
than what is exact. Several starts go at once, among them the catalogue's chips; the cheapest that
meets everything is the answer, and the exact clock checks it.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

from emu.chip_names import chip, chips
from emu.chips import Chip
from emu.design.counts import Array
from emu.design.family import is_capacity
from emu.design.grid import check_numbers, numbers_of, with_numbers
from emu.design.target import Clocked, Target, exact, is_number, needed_bytes, usable_bytes
from emu.errors import EmuError
from emu.placement import Placement
from emu.rules import nearest
from emu.sensitivity import Elasticity
from emu.system import System

Cost = Callable[[System], Any]  # of a system whose numbers may be traced; above 0
Bounds = Mapping[str, tuple[float, float]]

_ROUNDS = 24  # of new multipliers
_SMOOTH = (0.03, 3e-4)  # of the clock's corners, in the first round and in the last
_RATE = (0.05, 3e-4)  # of Adam; it falls to nothing within a round
_STEPS = 100  # in each round
_STARTS = 4
_PENALTY = 30.0
_INSIDE = 1e-3  # how near to its bounds, as a share of their distance, a start may be


@dataclasses.dataclass(frozen=True, kw_only=True)
class Solution:
    """The answer, checked by the exact clock."""

    numbers: dict[str, float]
    system: System
    placement: Placement
    cost: float
    seconds: float  # exact
    target_s: float
    fill: dict[str, float]  # of each memory, the share of what the stack leaves that is used
    elasticities: tuple[Elasticity, ...]  # of the exact step's seconds, the strongest first
    path: pd.DataFrame  # round by round: numbers, cost, seconds (rounded corners)
    start: str  # where the one that won began

    def __str__(self) -> str:
        lines = [
            f"{1e6 * self.seconds:,.1f} us a step (asked: {1e6 * self.target_s:,.1f}), "
            f"cost {self.cost:,.6g}, from {self.start}"
        ]
        strength = {one.name: one.value for one in self.elasticities}
        for name, value in self.numbers.items():
            lines.append(f"  {name:<44} {value:>12.5g}  elasticity {strength.get(name, 0.0):+.3f}")
        for name, share in self.fill.items():
            if share > 0:
                lines.append(f"  {name} is {share:.1%} full")
        return "\n".join(lines)


def solve(
    target: Target,
    free: Sequence[str],
    bounds: Bounds,
    cost: Cost,
    *,
    starts: Mapping[str, Mapping[str, float]] | None = None,
) -> Solution:
    """The cheapest system of these free numbers that meets a target.

    Activations go through the memory that they would at the largest capacities within the bounds,
    unless the target names another: solve for each where both could be cheaper.

    Args:
      target: the work, the system that all other numbers are of, the rules, the seconds.
      free: names of numbers, as `emu.design.numbers_of` has them.
      bounds: for each, the least and the most; both above 0.
      cost: of a system; grows with what is to be kept small. Traced by JAX.
      starts: free numbers by the name of a start; None: the catalogue's chips that are nearest to
        the target. The middle of the bounds is always one.

    Raises:
      EmuError: no such number, bounds that are none, a target that no numbers within the bounds
        meet (it says what they do), tensors that fit nowhere within them.
    """
    if isinstance(free, str):
        raise EmuError(f"design: free is a list, such as [{free!r}]")
    free = tuple(free)
    _check(target, free, bounds)
    _check_cost(target, free, bounds, cost)
    best = _corner(target, free, bounds)
    roomy = with_numbers(target.system, {n: best[n] for n in free if is_capacity(n)})
    placement = target.placed(roomy)
    needed = needed_bytes(target.work, placement)
    _check_reachable(target, placement, best, needed, roomy)
    _check_starts(starts or {}, free)
    begins = dict(starts) if starts is not None else _from_catalogue(target, free, bounds)
    begins["the middle of the bounds"] = {n: math.sqrt(math.prod(bounds[n])) for n in free}
    names = list(begins)
    problem = _Problem(target, placement, needed, free, bounds, cost)
    positions = np.array([problem.position(begins[name]) for name in names])
    found, path = problem.minimised(positions)
    answers = []
    for i, name in enumerate(names):
        numbers = problem.tightened(problem.back_inside(problem.values(found[i]), best))
        answers.append((float(cost(with_numbers(target.system, numbers))), i, name, numbers))
    price, i, name, numbers = min(answers, key=lambda answer: answer[:2])
    system = with_numbers(target.system, numbers)
    usable = usable_bytes(system)
    return Solution(
        numbers=numbers,
        system=system,
        placement=placement,
        cost=price,
        seconds=exact(target.work, system, placement),
        target_s=target.seconds,
        fill={
            memory.name: n / float(u)
            for memory, n, u in zip(system.chip.memories, needed, usable, strict=True)
        },
        elasticities=problem.clocked.elasticities(system),
        path=problem.table(path, i),
        start=name,
    )


class _Problem:
    """The target as a function of unbounded positions, one for each free number."""

    def __init__(
        self,
        target: Target,
        placement: Placement,
        needed: Sequence[float],
        free: tuple[str, ...],
        bounds: Bounds,
        cost: Cost,
    ) -> None:
        self.target, self.placement, self.free, self.cost = target, placement, free, cost
        self.low = np.log([bounds[name][0] for name in free])
        self.width = np.log([bounds[name][1] for name in free]) - self.low
        self.clocked = Clocked.of(target, placement)
        self.needed = [(m, n) for m, n in enumerate(needed) if n > 0]

    def position(self, numbers: Mapping[str, float]) -> Array:
        """Of numbers, moved inside their bounds."""
        share = (np.log([numbers[name] for name in self.free]) - self.low) / self.width
        share = np.clip(share, _INSIDE, 1 - _INSIDE)
        return np.log(share / (1 - share))

    def values(self, position: Array) -> dict[str, float]:
        """The numbers at a position."""
        logs = self.low + self.width / (1 + np.exp(-np.asarray(position)))
        return dict(zip(self.free, np.exp(logs).tolist(), strict=True))

    def _system(self, position: Array) -> System:
        numbers = jnp.exp(self.low + self.width * jax.nn.sigmoid(position))
        return with_numbers(
            self.target.system, {name: numbers[i] for i, name in enumerate(self.free)}
        )

    def _looked_at(self, position: Array, smooth: Array) -> tuple[Array, Array]:
        """(log cost, constraints): the latter are met where they are at most 0."""
        system = self._system(position)
        seconds = self.clocked.seconds(system, smooth)
        usable = usable_bytes(system)
        constraints = [jnp.log(seconds / self.target.seconds)]
        constraints += [jnp.log(n / usable[m]) for m, n in self.needed]
        return jnp.log(self.cost(system)), jnp.stack(constraints)

    def minimised(self, positions: Array) -> tuple[Array, list[tuple[Array, ...]]]:
        """The positions [starts, free] at the end, and what was at the end of each round."""
        path: list[tuple[Array, ...]] = []
        with jax.enable_x64(True):
            at = jnp.asarray(positions, jnp.float64)
            multipliers = jnp.zeros((len(positions), 1 + len(self.needed)))
            a_round = jax.jit(jax.vmap(self._round, (0, 0, None, None)))
            for turn in range(_ROUNDS):
                shrunk = turn / (_ROUNDS - 1)
                smooth = _SMOOTH[0] * (_SMOOTH[1] / _SMOOTH[0]) ** shrunk
                rate = _RATE[0] * (_RATE[1] / _RATE[0]) ** shrunk
                at, multipliers, *seen = a_round(at, multipliers, rate, smooth)
                path.append(tuple(map(np.asarray, (at, *seen))))
            return np.asarray(at), path

    def table(self, path: Sequence[tuple[Array, ...]], start: int) -> pd.DataFrame:
        """Round by round, where one start had come to."""
        return pd.DataFrame(
            [
                self.values(at[start])
                | {
                    "cost": math.exp(log_cost[start]),
                    "seconds": self.target.seconds * math.exp(constraints[start][0]),
                }
                for at, log_cost, constraints in path
            ]
        )

    def _round(self, position: Array, multipliers: Array, rate: Array, smooth: Array) -> Any:
        """Adam for fixed multipliers, then new ones."""
        adam = optax.scale_by_adam(b2=0.99)

        def objective(position: Array) -> Array:
            log_cost, constraints = self._looked_at(position, smooth)
            pushed = jnp.maximum(constraints + multipliers / _PENALTY, 0.0)
            return log_cost + 0.5 * _PENALTY * jnp.sum(pushed**2)

        def step(state: Any, n: Array) -> Any:
            position, moments = state
            change, moments = adam.update(jax.grad(objective)(position), moments)
            return (position - rate * (1 - n / _STEPS) * change, moments), None

        begin = (position, adam.init(position))
        (position, _), _ = jax.lax.scan(step, begin, jnp.arange(_STEPS, dtype=jnp.float64))
        log_cost, constraints = self._looked_at(position, smooth)
        multipliers = jnp.maximum(multipliers + _PENALTY * constraints, 0.0)
        return position, multipliers, log_cost, constraints

    def back_inside(self, numbers: dict[str, float], best: Mapping[str, float]) -> dict[str, float]:
        """The numbers, moved towards the best as little as the exact clock and capacities ask."""
        if self._meets(numbers):
            return numbers
        low, high = 0.0, 1.0
        for _ in range(50):
            middle = 0.5 * (low + high)
            if self._meets(_between(numbers, best, middle)):
                high = middle
            else:
                low = middle
        return _between(numbers, best, high)

    def tightened(self, numbers: dict[str, float]) -> dict[str, float]:
        """Numbers that meet everything, each as cheap as it still does with the others as they are:
        no capacity is left that nothing needs.
        """
        for name, low, width in zip(self.free, self.low, self.width, strict=True):
            ends = [numbers | {name: math.exp(low + share * width)} for share in (0.0, 1.0)]
            price = [float(self.cost(with_numbers(self.target.system, end))) for end in ends]
            cheap = ends[int(price[1] < price[0])]
            if self._meets(cheap):
                numbers = cheap
                continue
            dear, cheaper = 0.0, 1.0
            for _ in range(40):
                middle = 0.5 * (dear + cheaper)
                if self._meets(_between(numbers, cheap, middle)):
                    dear = middle
                else:
                    cheaper = middle
            numbers = _between(numbers, cheap, dear)
        return numbers

    def _meets(self, numbers: Mapping[str, float]) -> bool:
        system = with_numbers(self.target.system, numbers)
        usable = usable_bytes(system)
        return (
            all(n <= float(usable[m]) for m, n in self.needed)
            and exact(self.target.work, system, self.placement) <= self.target.seconds
        )


def _between(a: Mapping[str, float], b: Mapping[str, float], share: float) -> dict[str, float]:
    """Numbers on the way from a to b, in logarithms."""
    return {
        name: math.exp(math.log(a[name]) * (1 - share) + math.log(b[name]) * share) for name in a
    }


def _check(target: Target, free: tuple[str, ...], bounds: Bounds) -> None:
    known = dict(numbers_of(target.system))
    if not free or len(set(free)) < len(free):
        raise EmuError("design: name at least one number that is free, each once")
    for name in free:
        if name not in known:
            raise EmuError(f"design: a system has no number {name!r}{nearest(name, known)}")
        if name not in bounds:
            raise EmuError(f"design: {name} is free and has no bounds")
        pair = bounds[name]
        if not (isinstance(pair, Iterable) and len(ends := list(pair)) == 2):
            raise EmuError(f"design: bounds of {name} are (least, most), not {pair}")
        if not all(map(is_number, ends)):
            raise EmuError(f"design: bounds of {name} are two numbers, not {pair}")
        low, high = ends
        if not 0 < low < high < math.inf:
            raise EmuError(f"design: bounds of {name} must rise from above 0, not {low} to {high}")
        for end in (low, high):
            check_numbers(with_numbers(target.system, {name: float(end)}))
    if unknown := sorted(set(bounds) - set(free)):
        raise EmuError(
            f"design: {unknown[0]} has bounds and is not free{nearest(unknown[0], free)}"
        )


def _check_cost(target: Target, free: tuple[str, ...], bounds: Bounds, cost: Cost) -> None:
    """A cost must be a number above 0 at both ends of the bounds."""
    for end in (0, 1):
        try:
            price = float(cost(with_numbers(target.system, {n: bounds[n][end] for n in free})))
        except (KeyError, AttributeError, TypeError, ValueError, ArithmeticError) as error:
            raise EmuError(f"design: cost cannot be told of a system ({error})") from error
        if not 0 < price < math.inf:
            raise EmuError(f"design: a cost must be above 0 and finite, not {price:g}")
    try:
        jax.eval_shape(lambda at: cost(with_numbers(target.system, at)), dict.fromkeys(free, 1.0))
    except TypeError as error:  # as all of JAX's errors of what it cannot trace are
        raise EmuError(
            "design: cost must be made of what JAX can trace: arithmetic and jax.numpy, no `if` "
            "and no `math` on the system's numbers"
        ) from error


def _check_starts(starts: Mapping[str, Mapping[str, float]], free: tuple[str, ...]) -> None:
    for name, numbers in starts.items():
        given = numbers if isinstance(numbers, Mapping) else {}
        if set(given) != set(free) or not all(is_number(v) and v > 0 for v in given.values()):
            raise EmuError(
                f"design: start {name!r} needs a number above 0 for each of {', '.join(free)}"
            )


def _corner(target: Target, free: tuple[str, ...], bounds: Bounds) -> dict[str, float]:
    """Of each free number, the end at which the step is faster; of capacities the larger.

    What hides behind another number in the middle of the bounds may show at their ends, so each is
    asked again from the corner found, until none changes.
    """
    best = {name: math.sqrt(math.prod(bounds[name])) for name in free}
    for name in filter(is_capacity, free):
        best[name] = bounds[name][0 if name == "stack/reserve_share" else 1]
    rates = [name for name in free if not is_capacity(name)]
    placement = target.placed(with_numbers(target.system, best))
    for _ in range(1 + len(rates)):
        before = dict(best)
        for name in rates:
            times = [
                exact(target.work, with_numbers(target.system, best | {name: end}), placement)
                for end in bounds[name]
            ]
            if times[0] != times[1]:
                best[name] = bounds[name][int(times[1] < times[0])]
            elif before[name] not in bounds[name]:  # it makes no difference yet
                best[name] = bounds[name][1]
        if best == before:
            break
    return best


def _check_reachable(
    target: Target,
    placement: Placement,
    best: Mapping[str, float],
    needed: Sequence[float],
    roomy: System,
) -> None:
    usable = zip(roomy.chip.memories, needed, usable_bytes(roomy), strict=True)
    for memory, n, room in usable:
        if n > float(room):
            raise EmuError(
                f"design: {memory.name} of each chip must hold {n:,.0f} bytes and has room for "
                f"{float(room):,.0f} at most: more chips, wider bounds, or other rules"
            )
    floor = exact(target.work, with_numbers(target.system, best), placement)
    if floor > target.seconds:
        raise EmuError(
            f"design: within these bounds a step takes {1e6 * floor:,.1f} us at least, and "
            f"{1e6 * target.seconds:,.1f} are asked for: wider bounds, other free numbers, or "
            "another split"
        )


def _from_catalogue(
    target: Target, free: tuple[str, ...], bounds: Bounds
) -> dict[str, dict[str, float]]:
    """Chips of the catalogue that have all free numbers, those nearest to the target first."""
    off: list[tuple[float, str, dict[str, float]]] = []
    known_here = dict(numbers_of(target.system))
    for other in (chip(name) for name in chips() if name != "host"):  # which would be measured
        numbers = {
            name: float(known_here[name])
            if name.startswith("stack/")
            else _of_chip(target.system.chip, other, name)
            for name in free
        }
        known = {name: value for name, value in numbers.items() if value is not None}
        if len(known) < len(free):
            continue
        inside = {n: min(max(v, bounds[n][0]), bounds[n][1]) for n, v in known.items()}
        system = with_numbers(target.system, inside)
        seconds = exact(target.work, system, target.placed(system))
        off.append((abs(math.log(seconds / target.seconds)), other.name, inside))
    off.sort(key=lambda one: one[:2])
    return {name: inside for _, name, inside in off[: _STARTS - 1]}


def _of_chip(base: Chip, other: Chip, name: str) -> float | None:
    """The number of another chip that plays the part of this one of the base chip's."""
    parts = name.split("/")
    if parts[0] != "chip" or len(parts) > 3:
        return None
    owner: Any = other
    if len(parts) == 3:
        kinds = {m.name: m.placement for m in base.memories}
        scopes = {link.name: link.scope for link in base.links}
        alike = [m for m in other.memories if m.placement == kinds.get(parts[1])]
        alike += [link for link in other.links if link.scope == scopes.get(parts[1])]  # type: ignore[misc]
        if not alike:
            return None
        owner = alike[0]
    number = getattr(owner, parts[-1], None)
    value = getattr(number, "value", None)
    return float(value) if isinstance(value, int | float) and 0 < value < math.inf else None
