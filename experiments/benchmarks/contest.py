"""Contestants take turns, round by round, so that the machine's drift favours none.

A figure is the median over rounds of a contestant's median in the round; a ratio is the median
over rounds of the ratio within the round. Rounds in which others took the machine's CPU are left
out of both, and counted.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

import emu
from experiments.progress import progress


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contestant:
    """Something that can be timed again and again."""

    name: str
    turn: Callable[[], emu.Latency]  # one round's samples


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ratio:
    """A ratio over the rounds in which neither side was disturbed (or all, if every one was)."""

    median: float
    p10: float
    p90: float
    rounds: int
    disturbed_rounds: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What every contestant took in every round."""

    turns: dict[str, tuple[emu.Latency, ...]]

    def seconds(self, name: str) -> float:
        """The median over calm rounds of the median seconds in a round."""
        turns = self.turns[name]
        calm = [t.median_s for t in turns if not t.disturbed]
        return float(np.median(calm or [t.median_s for t in turns]))

    def samples(self, name: str) -> int:
        """How many undisturbed samples the figure rests on."""
        return sum(t.count for t in self.turns[name])

    def p99_s(self, name: str, *, calm: bool) -> float:
        """The median over rounds of the p99 within one: of its calm samples, or of all."""
        turns = self.turns[name]
        return float(np.median([t.p99_s if calm else t.p99_all_s for t in turns]))

    def speedup(self, name: str, against: str) -> Ratio:
        """How many times as fast `name` is as `against`."""
        pairs = list(zip(self.turns[name], self.turns[against], strict=True))
        calm = [(a, b) for a, b in pairs if not (a.disturbed or b.disturbed)]
        ratios = [b.median_s / a.median_s for a, b in calm or pairs]
        p10, median, p90 = (float(v) for v in np.percentile(ratios, (10, 50, 90)))
        return Ratio(
            median=median,
            p10=p10,
            p90=p90,
            rounds=len(pairs),
            disturbed_rounds=len(pairs) - len(calm),
        )


def contest(contestants: Sequence[Contestant], rounds: int, what: str) -> Outcome:
    """Let everyone take a turn in each round; the order turns round from one to the next."""
    turns: dict[str, list[emu.Latency]] = {c.name: [] for c in contestants}
    with progress(rounds * len(contestants), what, "turn") as bar:
        for number in range(rounds):
            first = number % len(contestants)
            for contestant in [*contestants[first:], *contestants[:first]]:
                turns[contestant.name].append(contestant.turn())
                bar.update()
    return Outcome(turns={name: tuple(taken) for name, taken in turns.items()})
