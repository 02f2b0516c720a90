"""Where the seconds of a coding session go on one system: from a step's time to a person's wait.

One call of the model takes

    network + loading its prefix + prefill of what is appended (the first token comes) + decode

and a request its calls and the tools between them. The prefix lies where the time since the last
call has left it: still in the memory that it is used in, at the host, or behind a network. Others
decode beside it, so many that each step has `together` sequences. Waiting for admission is not
here: `experiments.serving` simulates it.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.errors import ExperimentError
from experiments.step_times import StepTimes
from experiments.workloads.drafts import kept_of
from experiments.workloads.traffic import Floats, Traffic
from experiments.workloads.workload import Workload

PARTS = ("network", "prefix load", "prefill", "decode", "tools")
LLM = PARTS[:-1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Service:
    """How calls are served; the config says why each number is what it is."""

    together: int = 2  # sequences that decode together, this one among them
    network_s: float = 0.05  # of a call, there and back
    near_s: float = 60.0  # a prefix that waits longer moves to the host
    host_s: float = 1800.0  # and after this to remote storage
    remote_bytes_per_s: float = 25e9  # of an instance, to remote storage
    drafted: int = 0  # tokens drafted a step
    kept_per_step: float = 0.0  # tokens that a step yields, its own among them; 0: by workload
    draft_share: float = 0.05  # of a step: what drafting one token takes

    def __post_init__(self) -> None:
        if self.together < 1:
            raise ExperimentError(f"together must be at least 1, not {self.together}")
        if not 0 <= self.near_s <= self.host_s:
            raise ExperimentError(
                f"near_s ({self.near_s}) and host_s ({self.host_s}) must rise from 0"
            )
        if self.network_s < 0 or self.draft_share < 0 or self.remote_bytes_per_s <= 0:
            raise ExperimentError(
                "network_s and draft_share must not be negative, remote_bytes_per_s positive"
            )
        given = self.kept_per_step
        if self.drafted < 0 or (given and not 1 <= given <= self.drafted + 1):
            raise ExperimentError(
                f"kept_per_step ({given}) lies between 1 and drafted + 1 ({self.drafted + 1}), or "
                "is 0: as the workload's drafts are accepted"
            )

    def writing(self, of: Workload | None) -> "Service":
        """The service of this workload, whose `kept_per_step` is a number.

        of: None for a trace, which does not say what is written. Raises ExperimentError where it is
        left to one that does not say.
        """
        if self.kept_per_step:
            return self
        if of is None and self.drafted:
            raise ExperimentError("a trace does not say what drafts are worth: give kept_per_step")
        tokens = 1.0 if of is None else kept_of(of, self.drafted)
        return dataclasses.replace(self, kept_per_step=tokens)

    @property
    def tokens_per_step(self) -> float:
        """Of each sequence."""
        assert self.kept_per_step or not self.drafted, "of a workload: Service.writing"
        return self.kept_per_step or 1.0

    def token_s(self, step_s: Floats) -> Floats:
        """Seconds between two tokens of one user, of steps that take so long."""
        return step_s * (1 + self.drafted * self.draft_share) / self.tokens_per_step


def parts(traffic: Traffic, times: StepTimes, service: Service) -> dict[str, Floats]:
    """Seconds of each call by part (`PARTS`), as arrays with an entry a call."""
    context = traffic.prefix_tokens + traffic.append_tokens + traffic.output_tokens / 2
    token_s = service.token_s(times.steps_s(service.together, context))
    return {
        "network": np.full(len(traffic), service.network_s),
        "prefix load": load_s(traffic, times, service),
        "prefill": times.prefill_s(traffic.append_tokens, traffic.prefix_tokens),
        "decode": token_s * (traffic.output_tokens - 1),
        "tools": traffic.tool_s,
    }


def load_s(traffic: Traffic, times: StepTimes, service: Service) -> Floats:
    """Seconds in which the prefix of each call comes back from where it waits."""
    held_bytes = traffic.prefix_tokens * times.room.all_token_bytes
    idle = traffic.delay_s
    first = np.append(True, traffic.session[1:] != traffic.session[:-1])
    rate = np.where(
        idle > service.host_s,
        service.remote_bytes_per_s,
        np.where(idle > service.near_s, times.host_bytes_per_s, np.inf),
    )
    # Where a session begins, nobody knows how long its context has waited: it comes from the host.
    rate = np.where(first, times.host_bytes_per_s, rate)
    found: Floats = held_bytes / rate
    return found


def by_request(traffic: Traffic, of_calls: Floats) -> Floats:
    """Sums over the calls of each request."""
    sums = np.bincount(traffic.request, of_calls, int(traffic.request[-1]) + 1)
    return sums.astype(np.float64)


def sum_of(by_part: Mapping[str, Floats], names: Sequence[str]) -> Floats:
    """Some parts together."""
    total: Floats = np.sum([by_part[name] for name in names], axis=0)
    return total


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sped:
    """By how much a request's time falls when a part of it takes no time."""

    mean: float  # the mean request's time, over what is left of it
    median: float  # the median of requests' times, over the median of what is left
    medians: float  # the same with what is left taken as the difference of the two medians


def sped_up(total: Floats, removed: Floats) -> Sped:
    """See `Sped`.

    Medians do not subtract, so that the last figure is no request's; but it is what published
    medians of a total and of its part allow (38.3 s of which 28.8 s: four times).

    total, removed: seconds of each request, and of the part that is taken away.
    """
    left = total - removed
    middle = float(np.median(total))
    difference = middle - float(np.median(removed))
    return Sped(
        mean=float(total.mean() / left.mean()),
        median=_over(middle, float(np.median(left))),
        medians=_over(middle, difference),
    )


def _over(seconds: float, left: float) -> float:
    return seconds / left if left > 0 else float("inf")
