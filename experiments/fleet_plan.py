"""How many instances of which system serve a mix of traffic at the least cost, as a mixed-integer
linear programme (scipy's `milp`, which is HiGHS).

For each class of traffic and each system that keeps its service levels there are n instances, a
whole number, and y sessions a second that they take on:

    minimise Σ price · n   with   Σ_systems y = demand,   0 ≤ y ≤ capacity · n   for each class,

and, where it is asked for, with a given share of all model calls on the fast systems. Instances
serve one class each.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from experiments.errors import ExperimentError

Pair = tuple[str, str]  # a class and a system


@dataclasses.dataclass(frozen=True, kw_only=True)
class Demand:
    """What comes of one class."""

    sessions_per_s: float
    calls_per_session: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Instances and sessions a second by class and system; those that are 0 are left out."""

    instances: dict[Pair, int]
    sessions_per_s: dict[Pair, float]
    usd_per_hour: float


def plan(
    demands: Mapping[str, Demand],
    capacities: Mapping[Pair, float],
    usd_per_hour: Mapping[str, float],
    *,
    fast: Sequence[str] = (),
    share: float | None = None,
) -> Plan | None:
    """The cheapest plan; None where the share cannot be reached.

    Args:
      demands: by class.
      capacities: sessions a second of one instance, by class and system; 0 or left out: it does not
        keep the levels.
      usd_per_hour: of one instance, by system.
      fast: systems whose share of the calls is given.
      share: of all calls, on the fast systems; None: as is cheapest.

    Raises:
      ExperimentError: a class that no system can serve.
    """
    pairs = [pair for pair, most in capacities.items() if most > 0]
    for name in demands:
        if not any(of == name for of, _ in pairs):
            raise ExperimentError(f"class {name}: no system can serve it")
    count = len(pairs)
    price = np.array([usd_per_hour[system] for _, system in pairs])
    cost = np.concatenate([price, np.zeros(count)])
    rows, low, high = [], [], []
    for name, demand in demands.items():  # everybody is served
        of_class = np.array([float(of == name) for of, _ in pairs])
        rows.append(np.concatenate([np.zeros(count), of_class]))
        low.append(demand.sessions_per_s)
        high.append(demand.sessions_per_s)
    for at, pair in enumerate(pairs):  # by instances that are there
        row = np.zeros(2 * count)
        row[at], row[count + at] = -capacities[pair], 1.0
        rows.append(row)
        low.append(-np.inf)
        high.append(0.0)
    if share is not None:
        calls = np.array([demands[of].calls_per_session for of, _ in pairs])
        on_fast = np.array([float(system in fast) for _, system in pairs])
        all_calls = sum(d.sessions_per_s * d.calls_per_session for d in demands.values())
        rows.append(np.concatenate([np.zeros(count), calls * on_fast / all_calls]))
        low.append(share)
        high.append(share)
    found = milp(
        cost,
        constraints=LinearConstraint(np.array(rows), np.array(low), np.array(high)),
        integrality=np.concatenate([np.ones(count), np.zeros(count)]),
        bounds=Bounds(0, np.inf),
        options={"mip_rel_gap": 1e-4, "time_limit": 20.0},
    )
    if found.x is None:
        return None
    instances, sessions = found.x[:count], found.x[count:]
    return Plan(
        instances={p: round(n) for p, n in zip(pairs, instances, strict=True) if round(n)},
        sessions_per_s={p: float(y) for p, y in zip(pairs, sessions, strict=True) if y > 1e-9},
        usd_per_hour=float(price @ np.round(instances)),
    )
