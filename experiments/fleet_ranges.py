"""How far plans may be off because step times may be.

One stack at a time, the systems under it take the step times of the low and of the high end of
their 80 % range, while all others stay: what an instance takes on is simulated there, and the fleet
is planned again. What that does to an answer adds in quadrature over the stacks, above and below
apart, as `experiments.ranges` adds what single numbers do: of logarithms for a cost, of seconds for
seconds. Prices, traffic, promises and the workloads' assumptions stay as they are.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from experiments.fleet_known import Fleet
from experiments.fleet_plan import Pair, Plan


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spread:
    """The 80 % range of an answer, and the ends at which there is no plan that has one."""

    low: float
    high: float
    without: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """The cheapest plan of each share of the calls on fast systems, and those at the ends."""

    fleet: Fleet
    plans: Mapping[float, Plan | None]
    moved: Mapping[str, tuple["Curve", "Curve"]]  # by stack, at the low and at the high end

    def over_none(self, share: float) -> float | None:
        """Cost of the fleet, over its cost with no calls on fast systems; None without a plan."""
        slow, made = self.plans[0.0], self.plans[share]
        return made.usd_per_hour / slow.usd_per_hour if slow and made else None

    def saved_s(self, share: float) -> float | None:
        """Seconds that a moved request is shorter, on average; None without a plan."""
        slow, made = self.plans[0.0], self.plans[share]
        return self.fleet.saved_s(made, slow) if slow and made else None

    def over_none_range(self, share: float) -> Spread | None:
        """The range of `over_none`."""
        return self._range(lambda curve: curve.over_none(share), math.log, math.exp)

    def saved_range_s(self, share: float) -> Spread | None:
        """The range of `saved_s`."""
        return self._range(lambda curve: curve.saved_s(share), float, float)

    def instances(self, share: float) -> dict[Pair, tuple[int, int, int]]:
        """Of each class on each system: in the plan, and the fewest and the most at any end."""
        plans = [p for curve in (self, *self._all_moved()) if (p := curve.plans[share])]
        pairs = dict.fromkeys(pair for made in plans for pair in made.instances)
        own = self.plans[share]
        counts = {pair: [made.instances.get(pair, 0) for made in plans] for pair in pairs}
        return {
            pair: (own.instances.get(pair, 0) if own else 0, min(of), max(of))
            for pair, of in counts.items()
        }

    def _all_moved(self) -> Iterator["Curve"]:
        for ends in self.moved.values():
            yield from ends

    def _range(
        self,
        answer: Callable[["Curve"], float | None],
        scale: Callable[[float], float],
        back: Callable[[float], float],
    ) -> Spread | None:
        own = answer(self)
        if own is None:
            return None
        ups, downs, without = [0.0], [0.0], []
        for stack, ends in self.moved.items():
            changes = [0.0]
            for name, end in zip(("low", "high"), ends, strict=True):
                there = answer(end)
                if there is None:
                    without.append(f"{stack} at its {name} end")
                else:
                    changes.append(scale(there) - scale(own))
            ups.append(max(changes))
            downs.append(min(changes))
        return Spread(
            # Where nothing changes the answer, exp(log(it)) may be off in its last digit.
            low=min(own, back(scale(own) - math.hypot(*downs))),
            high=max(own, back(scale(own) + math.hypot(*ups))),
            without=tuple(without),
        )


def curve(fleet: Fleet, shares: Sequence[float], *, proven: bool) -> Curve:
    """Plans at these shares and at 0; proven: without systems that nobody has proven."""
    able = [n for n in fleet.times if not (proven and n in fleet.settings.unproven)]
    stacks = dict.fromkeys(fleet.settings.systems[name].stack for name in able)
    low, high = (
        {stack: _alone(fleet.at_end(stack, end), shares, proven) for stack in stacks}
        for end in ("low", "high")
    )
    return dataclasses.replace(
        _alone(fleet, shares, proven),
        moved={stack: (low[stack], high[stack]) for stack in stacks},
    )


def _alone(fleet: Fleet, shares: Sequence[float], proven: bool) -> Curve:
    return Curve(fleet=fleet, plans=fleet.plans(shares, proven=proven), moved={})
