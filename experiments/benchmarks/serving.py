"""How long a day of an agent's traffic, 100,000 calls of the model, takes to simulate.

The day of `experiments/configs/day_of_traffic.py`, drawn and served on one instance of each of two
systems: eight H100, and Groq's, whose memory holds few caches, so that most are moved about. Step
times are predicted before, and not timed. Every round must end as the first one did.
"""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments.configs import day_of_traffic
from experiments.errors import ExperimentError
from experiments.serving.levels import met
from experiments.serving.simulation import simulate
from experiments.settings import freeze
from experiments.step_times import step_times
from experiments.traffic_served import Settings, deployments, service, traffic

SYSTEMS = ("h100", "groq")
ROUNDS = 3
MOST_S = 60.0
CALLS = 100_000

Row = dict[str, Any]


def rows() -> Iterator[Row]:
    """Seconds of a day on each system, against the minute that it may take."""
    config = day_of_traffic.get_config()
    del config.experiment
    settings = freeze(Settings, config)
    for system in SYSTEMS:
        times = step_times(deployments(settings)[system])
        seconds, ends = [], []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            served = traffic(settings)
            log = simulate(served, times, service(settings), settings.policy)
            ends.append(met(served, log, times, service(settings)))
            seconds.append(time.perf_counter() - start)
        if any(end != ends[0] for end in ends):
            raise ExperimentError(f"bench: the same day on {system} did not end the same way twice")
        if len(served) < CALLS or not log.answered.all():
            raise ExperimentError(f"bench: {log.answered.sum():,} calls of {CALLS:,} were answered")
        yield {
            "name": f"serving_day_{system}",
            "value": float(np.median(seconds)),
            "unit": "s",
            "against": f"{MOST_S:g} s",
            "ratio": float(np.median(seconds)) / MOST_S,
            "samples": ROUNDS,
            "low": min(seconds),
            "high": max(seconds),
            "calls": len(served),
            "calls_per_s": len(served) / float(np.median(seconds)),
        }
