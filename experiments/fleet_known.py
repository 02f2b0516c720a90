"""What is known before a fleet is planned: traffic, step times, and what one instance takes on."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from experiments.costs import price
from experiments.fleet_plan import Demand, Pair, Plan, plan
from experiments.step_times import StepTimes
from experiments.workloads.sampling import sample
from experiments.workloads.workload import as_assumed

if TYPE_CHECKING:
    from experiments.fleet import Settings

Measured = Mapping[Pair, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Session:
    """The mean session of a class."""

    calls: float
    requests: float
    cached_tokens: float
    new_tokens: float
    output_tokens: float


@functools.lru_cache(maxsize=32)
def _session(
    name: str, assumed: tuple[tuple[str, float], ...], sessions: int, window: int, seed: int
) -> Session:
    """As it is drawn."""
    of = as_assumed(name, {name: dict(assumed)})
    traffic = sample(of, sessions=sessions, per_s=1.0, seed=seed).within(window)
    return Session(
        calls=len(traffic) / sessions,
        requests=(int(traffic.request[-1]) + 1) / sessions,
        cached_tokens=float(traffic.prefix_tokens.sum()) / sessions,
        new_tokens=float(traffic.append_tokens.sum()) / sessions,
        output_tokens=float(traffic.output_tokens.sum()) / sessions,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fleet:
    """The question with all that is known; `found` is what plans are made with."""

    settings: "Settings"
    times: Mapping[str, StepTimes]
    found: Measured
    ends: Mapping[str, Measured]  # what was found at each end of the range of step times

    @property
    def demands(self) -> dict[str, Demand]:
        """Of each class."""
        return {
            name: Demand(sessions_per_s=of.sessions_per_s, calls_per_session=self.of(name).calls)
            for name, of in self.settings.classes.items()
        }

    def of(self, name: str) -> Session:
        """The mean session of a class."""
        of, settings = self.settings.classes[name], self.settings
        assumed = tuple(sorted(settings.assumed.get(of.workload, {}).items()))
        return _session(of.workload, assumed, of.simulated, settings.window_tokens, settings.seed)

    def usd_per_hour(self, system: str) -> float:
        """Of an instance."""
        hardware = self.settings.systems[system]
        return price(hardware, self.times[system], self.settings.costs).usd_per_hour

    def plans(self, shares: Iterable[float], *, proven: bool = False) -> dict[float, Plan | None]:
        """The cheapest plan with each share of calls on the fast systems, and with none (0).

        None where there is no plan. Nobody moves traffic to a machine that is slower than those
        that it is on: fast systems for which that is so take no part where a share is asked for.
        proven: without systems whose software nobody has published.
        """
        able = {pair: made for pair, made in self.found.items() if made["sessions_per_s"]}
        if proven:
            able = {p: made for p, made in able.items() if p[1] not in self.settings.unproven}
        slow = self._planned(able, 0.0)
        found: dict[float, Plan | None] = {0.0: slow}
        if slow is not None:
            able = {p: made for p, made in able.items() if not self._is_slower(p, slow)}
        for share in shares:
            if share:
                found[share] = None if slow is None else self._planned(able, share)
        return found

    def _planned(self, able: Measured, share: float) -> Plan | None:
        if {name for name, _ in able} < set(self.settings.classes):
            return None
        return plan(
            self.demands,
            {pair: made["sessions_per_s"] for pair, made in able.items()},
            {system: self.usd_per_hour(system) for system in self.times},
            fast=self.settings.fast,
            share=share,
        )

    def at_end(self, stack: str, end: str) -> "Fleet":
        """With all systems under one stack at this end of their range, the others as they are.

        They share fitted numbers, so that they are off together.
        """
        systems = {n for n, of in self.settings.systems.items() if of.stack == stack}
        moved = {pair: made for pair, made in self.ends[end].items() if pair[1] in systems}
        return dataclasses.replace(self, found={**self.found, **moved})

    def _is_slower(self, pair: Pair, slow: Plan) -> bool:
        """Whether it is a fast system, and slower than what serves the class in this plan."""
        name, system = pair
        mean = float(self.found[pair]["at"]["request_mean_s"])
        return system in self.settings.fast and mean >= self.request_s(slow, name)

    def request_s(self, made: Plan, name: str) -> float:
        """Seconds of the model's part of the mean request of a class, over a plan's systems."""
        of = {pair: y for pair, y in made.sessions_per_s.items() if pair[0] == name}
        total = sum(y * self.found[pair]["at"]["request_mean_s"] for pair, y in of.items())
        return float(total / sum(of.values()))

    def saved_s(self, made: Plan, slow: Plan) -> float:
        """Seconds that a request which is moved to a fast system is shorter, on average."""
        saved = moved = 0.0
        for (name, system), y in made.sessions_per_s.items():
            if system in self.settings.fast:
                requests = y * self.of(name).requests
                mean = self.found[name, system]["at"]["request_mean_s"]
                saved += requests * (self.request_s(slow, name) - mean)
                moved += requests
        return saved / moved if moved else 0.0
