"""What an instance takes on, where it can be said without simulating."""

import dataclasses

import numpy as np
import pytest

from experiments.serving.capacity import capacity
from experiments.serving.levels import Level, met
from experiments.serving.policy import Policy
from experiments.serving.simulation import simulate
from experiments.session_time import Service
from experiments.step_times import Grid, Room, StepTimes
from experiments.workloads.sampling import sample
from experiments.workloads.workload import workload

SERVICE = Service(network_s=0.0)
WINDOW = 131_000
# Each sequence adds a millisecond to a step, each token of a prompt a microsecond: no time is
# shared, so that a call takes the same of the instance whoever is beside it.
TIMES = StepTimes(
    decode=Grid(rows=(1.0, 2.0), columns=(0.0, 1e9), seconds=((1e-3,) * 2, (2e-3,) * 2)),
    prefill=Grid(rows=(0.0, 1e9), columns=(0.0, 1e9), seconds=((0, 0), (1e3, 1e3))),
    beside=Grid(rows=(0.0, 1e9), columns=(0.0, 1e9), seconds=((0, 0), (1e3, 1e3))),
    chunk=2048,
    stages=1,
    chips=1,
    room=Room(fixed_bytes=0, sequence_bytes=0, token_bytes=0, capacity_bytes=1, all_token_bytes=0),
    power_w=1,
    host_bytes_per_s=1,
    low=0.8,
    high=1.25,
    system="made up",
    moved=(),
    checked=(),
)


def found(name: str, sessions: int, level: Level, times: StepTimes = TIMES) -> float:
    return capacity(
        workload(name), times, SERVICE, Policy(), level, sessions=sessions, seed=0, window=WINDOW
    ).sessions_per_s


def alone_s(name: str, sessions: int) -> float:
    """Seconds that a session takes of the instance."""
    traffic = sample(workload(name), sessions=sessions, per_s=1.0, seed=0).within(WINDOW)
    seconds = 1e-6 * traffic.append_tokens.sum() + 1e-3 * (traffic.output_tokens - 1).sum()
    return float(seconds) / sessions


def test_without_a_promise_an_instance_takes_on_what_it_has_time_for() -> None:
    # 5 % of what comes may stay unanswered at the end, and the rate is known to 5 %.
    assert found("chat", 3000, Level()) == pytest.approx(1 / alone_s("chat", 3000), rel=0.08)


def test_a_few_sessions_do_not_make_it_boundless() -> None:
    for name in ("software", "chat"):
        assert found(name, 15, Level()) < 3 / alone_s(name, 15)


def test_where_no_request_is_whole_there_are_figures_still() -> None:
    traffic = sample(workload("software"), sessions=5, per_s=1.0, seed=0)
    log = simulate(traffic, TIMES, SERVICE, Policy())
    usual = met(traffic, log, TIMES, SERVICE)
    assert met(traffic, log, TIMES, SERVICE, np.zeros(len(traffic), bool)) == usual


def test_steps_that_take_longer_take_on_less() -> None:
    typical = found("chat", 1000, Level())
    fast, slow = (found("chat", 1000, Level(), TIMES.at_end(end)) for end in ("low", "high"))
    assert fast == pytest.approx(typical / TIMES.low, rel=0.08)
    assert slow == pytest.approx(typical / TIMES.high, rel=0.08)


def test_a_promise_below_the_floor_is_told_with_the_floor() -> None:
    made = capacity(
        workload("chat"),
        dataclasses.replace(TIMES, chunk=10**6),
        SERVICE,
        Policy(),
        Level(ttft_p99_s=1e-3, tokens_per_s=2000.0),
        sessions=300,
        seed=0,
        window=WINDOW,
    )
    assert made.sessions_per_s == 0
    ttft, speed = made.missed
    assert ttft == f"TTFT p99 {made.floor['ttft_p99_s']:.3g} s, asked 0.001 s"
    assert speed == "1e+03 tokens/s, asked 2000"
