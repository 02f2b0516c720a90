"""What users of an instance met, in a few figures, and whether that is what they were promised."""

import dataclasses
import math
from typing import Any

import numpy as np

from experiments.errors import ExperimentError
from experiments.serving.simulation import PLACES, Log
from experiments.session_time import Service
from experiments.step_times import StepTimes
from experiments.workloads.traffic import Floats, Traffic

Marks = np.ndarray[tuple[int], np.dtype[np.bool_]]

_WARM_UP = 0.2  # of the time in which sessions start: not counted


@dataclasses.dataclass(frozen=True, kw_only=True)
class Level:
    """What a class of traffic is promised; 0: nothing."""

    ttft_p99_s: float = 0.0  # seconds to the first token, of 99 calls in 100
    tokens_per_s: float = 0.0  # of one user, that half of the calls reach
    request_p50_s: float = 0.0  # seconds of the model's part of a request, half of them

    def __post_init__(self) -> None:
        promised = (self.ttft_p99_s, self.tokens_per_s, self.request_p50_s)
        if not all(0 <= one < math.inf for one in promised):
            raise ExperimentError(
                "service levels must not be negative (0: nothing is promised), and are finite, not "
                f"{', '.join(f'{one:g}' for one in promised)}"
            )

    def missed(self, met: dict[str, float]) -> tuple[str, ...]:
        """What is not kept, in words with both figures."""
        found = []
        if self.ttft_p99_s and met["ttft_p99_s"] > self.ttft_p99_s:
            found.append(f"TTFT p99 {met['ttft_p99_s']:.3g} s, asked {self.ttft_p99_s:g} s")
        if self.tokens_per_s and met["tokens_per_s_p50"] < self.tokens_per_s:
            found.append(f"{met['tokens_per_s_p50']:.3g} tokens/s, asked {self.tokens_per_s:g}")
        if self.request_p50_s and met["request_p50_s"] > self.request_p50_s:
            found.append(f"request {met['request_p50_s']:.3g} s, asked {self.request_p50_s:g} s")
        return tuple(found)


def met(
    traffic: Traffic, log: Log, times: StepTimes, service: Service, whole: Marks | None = None
) -> dict[str, Any]:
    """Figures of the calls that came after a fifth of the time in which sessions start.

    Requests count the model's time alone, tools left out; only whole ones. whole: marks the calls
    of requests of which none is missing from the traffic; None: all.
    """
    first_start, last_start = float(traffic.start_s.min()), float(traffic.start_s.max())
    span = last_start - first_start or log.end_s - first_start
    counted = log.answered & (log.arrival_s >= first_start + _WARM_UP * (last_start - first_start))
    counted &= log.arrival_s <= max(last_start, float(np.nanmin(log.arrival_s)))
    if not counted.any():
        counted = log.answered
    ttft = (log.first_s - log.arrival_s + service.network_s)[counted]
    several = counted & (traffic.output_tokens > 1)
    tokens_per_s = (traffic.output_tokens - 1)[several] / (log.done_s - log.first_s)[several]
    call_s = log.done_s - log.arrival_s + service.network_s
    all_there = counted if whole is None else counted & whole
    # Of a handful of sessions perhaps no request is whole: then as much of them as there is.
    request_s = _whole_requests(traffic, call_s, all_there if all_there.any() else counted)
    return {
        "calls": len(traffic),
        "counted": int(counted.sum()),
        "refused": log.refused,
        "ttft_p50_s": _quantile(ttft, 0.5),
        "ttft_p99_s": _quantile(ttft, 0.99),
        "tokens_per_s_p50": _quantile(tokens_per_s, 0.5),
        "tokens_per_s_p10": _quantile(tokens_per_s, 0.1),
        "request_p50_s": _quantile(request_s, 0.5),
        "request_mean_s": float(request_s.mean()),
        "busy": log.busy_s / span,
        "growth": _growth(log, first_start, last_start),
        "calls_per_s": float(counted.sum() / max(span * (1 - _WARM_UP), 1e-9)),
        "places": {name: int(np.sum(log.place == number)) for number, name in enumerate(PLACES)},
        "evicted": log.evicted,
        "dropped": log.dropped,
        "steps": log.steps,
        "end_s": log.end_s,
    }


def _growth(log: Log, first_start: float, last_start: float) -> float:
    """Of the calls that are not answered yet, in the second half of the time in which sessions
    start, over the calls that come in it; 0 where none come.
    """
    arrival, done = (np.nan_to_num(of, nan=np.inf) for of in (log.arrival_s, log.done_s))
    middle = (first_start + last_start) / 2
    came = int(np.sum((arrival > middle) & (arrival <= last_start)))
    went = int(np.sum((done > middle) & (done <= last_start)))
    return (came - went) / came if came else 0.0


def _whole_requests(traffic: Traffic, call_s: Floats, counted: Any) -> Floats:
    number = int(traffic.request[-1]) + 1
    sums = np.bincount(traffic.request, np.where(counted, call_s, 0.0), number)
    seen = np.bincount(traffic.request, counted, number)
    whole = seen == np.bincount(traffic.request, minlength=number)
    found = sums[whole] if whole.any() else sums[seen > 0]
    return found.astype(np.float64)


def _quantile(values: Floats, share: float) -> float:
    return float(np.quantile(values, share)) if len(values) else float("inf")
