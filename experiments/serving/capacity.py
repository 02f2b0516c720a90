"""How many sessions a second one instance can take on and keep what its users were promised.

Found by bisection over the rate, each rate simulated with the same sessions (the same
random draws, closer together). The floor is what one session at a time meets: a promise below it
cannot be kept at any rate. Nor can a rate at which calls come faster than they are answered: what
has not been answered then grows for as long as sessions start, although users of so short a
simulation may not feel it yet. An instance that is never idle is not full: steps take more
sequences along.

Each simulation begins with the sessions and the caches that an instance holds which has been
serving at this rate for long (`experiments.serving.steady`). What is counted is the calls that came
while sessions started, over that time: the load that was met.
"""

import dataclasses
from typing import Any

from experiments.serving.levels import Level, met
from experiments.serving.policy import Policy
from experiments.serving.simulation import simulate
from experiments.serving.steady import steady
from experiments.session_time import Service
from experiments.step_times import StepTimes
from experiments.workloads.sampling import sample
from experiments.workloads.traffic import Traffic
from experiments.workloads.workload import Workload

_LOWEST = 1e-5  # sessions a second: one at a time
_STRIDE = 4.0  # from rate to rate, until one is kept and one is not
_MOST_GROWTH = 0.05  # of what is unanswered, over what comes: beyond it queues grow without end


@dataclasses.dataclass(frozen=True, kw_only=True)
class Capacity:
    """What one instance does for one class."""

    sessions_per_s: float  # 0: not even one session at a time keeps what was promised
    missed: tuple[str, ...]  # at the floor: why it is 0
    floor: dict[str, Any]  # figures of `levels.met`, one session at a time
    at: dict[str, Any]  # the same at `sessions_per_s`


def capacity(
    of: Workload,
    times: StepTimes,
    service: Service,
    policy: Policy,
    level: Level,
    *,
    sessions: int,
    seed: int,
    window: int,
    within: float = 0.05,
) -> Capacity:
    """See the module; `sessions` are drawn anew for each rate from the same streams.

    within: by how much a rate that is not kept may be above the one that is found.

    Raises:
      CapacityError: the instance has no room for one of the contexts, even alone.
    """

    def drawn(per_s: float) -> Traffic:
        return sample(of, sessions=sessions, per_s=per_s, seed=seed).within(window)

    one_by_one = drawn(_LOWEST)
    alone = simulate(one_by_one, times, service, policy)

    def at(per_s: float) -> dict[str, Any]:
        begun = steady(drawn(per_s), alone, per_s=per_s, network_s=service.network_s, seed=seed)
        log = simulate(begun.traffic, times, service, policy, begun.held)
        return met(begun.traffic, log, times, service, begun.whole)

    floor = met(one_by_one, alone, times, service)
    missed = level.missed(floor)
    if missed:
        return Capacity(sessions_per_s=0.0, missed=missed, floor=floor, at=floor)
    low, found = _LOWEST, floor
    high = 0.0
    # What the instance would do if nobody shared a step with anybody.
    rate = _LOWEST / min(max(floor["busy"], 1e-9), 0.5)
    while not high or high / low > 1 + within:
        tried = at(rate)
        if level.missed(tried) or tried["growth"] > _MOST_GROWTH:
            high = rate
        else:
            low, found = rate, tried
        rate = max((low * high) ** 0.5, high / _STRIDE) if high else _STRIDE * low
    met_per_s = found["calls_per_s"] * sessions / len(one_by_one)
    return Capacity(sessions_per_s=met_per_s, missed=(), floor=floor, at=found)
