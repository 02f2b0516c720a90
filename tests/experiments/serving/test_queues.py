"""The simulation where queueing theory knows the answer.

Each mean is taken over independent runs, and must lie within four of their standard errors of the
exact value: by chance alone one in 16,000 does not. Seeds are fixed, so that none does by chance
from one day to the next.
"""

import dataclasses

import numpy as np
import pytest

from experiments.serving.policy import Policy
from experiments.serving.simulation import Log, simulate
from experiments.session_time import Service
from experiments.step_times import Grid, Room, StepTimes
from experiments.workloads.traffic import Traffic

RUNS, CALLS = 16, 6000
ERRORS = 4.0
DIRECT = Service(network_s=0.0)
# A microsecond a token.
PROMPTS = Grid(rows=(0.0, 1e9), columns=(0.0, 1e9), seconds=((0, 0), (1000.0, 1000.0)))


def made_up(*, step_s: float, per_sequence_s: float = 0.0) -> StepTimes:
    """An instance without weights to read, whose prompts take a microsecond a token, unchunked."""
    many = 1e9
    return StepTimes(
        decode=Grid(
            rows=(1.0, 2.0),
            columns=(0.0, many),
            seconds=((step_s + per_sequence_s,) * 2, (step_s + 2 * per_sequence_s,) * 2),
        ),
        prefill=PROMPTS,
        beside=PROMPTS,
        chunk=int(many),
        stages=1,
        chips=1,
        room=Room(
            fixed_bytes=0, sequence_bytes=0, token_bytes=0, capacity_bytes=1, all_token_bytes=0
        ),
        power_w=1,
        host_bytes_per_s=1,
        low=1,
        high=1,
        system="made up",
        moved=(),
        checked=(),
    )


def alone(start_s: np.ndarray, prompt: np.ndarray, output: np.ndarray) -> Traffic:
    calls = len(start_s)
    each = np.arange(calls)
    return Traffic(
        start_s=start_s,
        session=each,
        request=each,
        delay_s=np.zeros(calls),
        prefix_tokens=np.zeros(calls, np.int64),
        append_tokens=prompt.astype(np.int64),
        output_tokens=output.astype(np.int64),
        tool_s=np.zeros(calls),
        observed_llm_s=np.full(calls, np.nan),
    )


def within(found: list[float], exact: float) -> None:
    error = np.std(found, ddof=1) / np.sqrt(len(found))
    assert error < 0.05 * exact  # or it would show nothing
    assert abs(np.mean(found) - exact) < ERRORS * error


@pytest.mark.parametrize("load", [0.3, 0.7])
@pytest.mark.parametrize("service", ["deterministic", "exponential"])
def test_one_prompt_at_a_time_is_m_d_1_or_m_m_1(load: float, service: str) -> None:
    waits, lengths = [], []
    for seed in range(RUNS):
        rng = np.random.default_rng(seed)
        arrivals = np.cumsum(rng.exponential(1 / load, CALLS))
        prompt = np.full(CALLS, 1e6)  # a second
        if service == "exponential":
            prompt = np.maximum(1, rng.exponential(1e6, CALLS))
        traffic = alone(arrivals, prompt, np.ones(CALLS))
        log = simulate(traffic, made_up(step_s=1e-9), DIRECT, Policy())
        waits.append(float(np.mean(log.admitted_s - log.arrival_s)))
        lengths.append(number_in_system(log))
    # Pollaczek and Khinchine: the mean wait is load/(1 - load) services times (1 + c²)/2.
    wait = load / (1 - load) * (1.0 if service == "exponential" else 0.5)
    within(waits, wait)
    within(lengths, load * (wait + 1))  # Little's law


def number_in_system(log: Log) -> float:
    """Over time: from arrivals and departures, without looking at how long each call took."""
    times = np.concatenate([log.arrival_s, log.done_s])
    change = np.concatenate([np.ones(len(log.arrival_s)), -np.ones(len(log.done_s))])
    order = np.argsort(times, kind="stable")
    held = np.cumsum(change[order])[:-1]
    return float(np.sum(held * np.diff(times[order])) / (times.max() - times.min()))


def test_steps_that_grow_with_the_batch_share_the_processor() -> None:
    # A step of n sequences takes n·s, so that each gets 1/n of the speed: M/G/1 with processor
    # sharing, whose mean response is the service over 1 - load, whatever its distribution.
    load, step_s = 0.6, 1e-3
    found = []
    for seed in range(RUNS):
        rng = np.random.default_rng(100 + seed)
        arrivals = np.cumsum(rng.exponential(1 / load, CALLS))
        output = 1 + rng.geometric(1 / 1000, CALLS)  # a second, more or less
        traffic = alone(arrivals, np.ones(CALLS), output)
        policy = Policy(most_together=10**6)
        times = made_up(step_s=0.0, per_sequence_s=step_s)
        log = simulate(traffic, times, DIRECT, policy)
        found.append(float(np.mean(log.done_s - log.arrival_s)))
    within(found, 1 / (1 - load))


def test_steps_that_do_not_grow_serve_everybody_at_once() -> None:
    # M/G/∞: nobody waits.
    step_s, rate = 1e-3, 20.0
    for seed in range(3):
        rng = np.random.default_rng(200 + seed)
        arrivals = np.cumsum(rng.exponential(1 / rate, CALLS))
        output = 1 + rng.geometric(1 / 500, CALLS)
        traffic = alone(arrivals, np.ones(CALLS), output)
        log = simulate(traffic, made_up(step_s=step_s), DIRECT, Policy(most_together=10**6))
        response = log.done_s - log.arrival_s
        # A step is under way when somebody comes, the next one takes the prompt along; at most a
        # few prompts come within one step.
        assert (response <= (output + 4) * step_s).all()
        assert (response >= (output - 1) * step_s - 1e-9).all()


def test_the_number_of_calls_and_tokens_is_kept() -> None:
    rng = np.random.default_rng(0)
    arrivals = np.cumsum(rng.exponential(0.01, 2000))
    output = rng.integers(1, 300, 2000)
    traffic = alone(arrivals, rng.integers(1, 9000, 2000), output)
    times = made_up(step_s=1e-3, per_sequence_s=1e-4)
    log = simulate(traffic, times, DIRECT, Policy(most_together=8))
    assert log.answered.all()
    assert log.refused == 0
    for before, after in (
        (log.arrival_s, log.ready_s),
        (log.ready_s, log.admitted_s),
        (log.admitted_s, log.first_s),
        (log.first_s, log.done_s),
    ):
        assert (before <= after).all()
    # With one sequence in each step a call cannot take less than its steps.
    assert (log.done_s - log.first_s >= (output - 1) * 1.1e-3 - 1e-9).all()
    assert log.busy_s <= log.end_s


def test_first_come_first_served() -> None:
    rng = np.random.default_rng(1)
    arrivals = np.cumsum(rng.exponential(0.1, 500))
    traffic = alone(arrivals, rng.integers(1, 200_000, 500), rng.integers(1, 50, 500))
    log = simulate(traffic, made_up(step_s=1e-3), DIRECT, Policy(most_together=2))
    assert (np.diff(log.admitted_s) >= 0).all()


def test_a_queue_that_is_full_refuses() -> None:
    traffic = alone(np.zeros(10), np.full(10, 10**6), np.ones(10))
    log = simulate(traffic, made_up(step_s=1e-3), DIRECT, Policy(most_waiting=3))
    # The first is admitted after three wait, all at the same moment.
    assert log.refused == 7
    assert log.answered.sum() == 3
    log = simulate(traffic, made_up(step_s=1e-3), DIRECT, Policy())
    assert log.answered.all()
    assert log.end_s == pytest.approx(10.0)


def test_speculation_divides_steps_and_pays_for_drafts() -> None:
    traffic = alone(np.zeros(1), np.ones(1), np.full(1, 1001))
    plain = simulate(traffic, made_up(step_s=1e-3), DIRECT, Policy())
    assert plain.done_s[0] - plain.first_s[0] == pytest.approx(1.0)
    service = dataclasses.replace(DIRECT, drafted=3, kept_per_step=2.5, draft_share=0.1)
    drafted = simulate(traffic, made_up(step_s=1e-3), service, Policy())
    assert drafted.done_s[0] - drafted.first_s[0] == pytest.approx(1.3 / 2.5)


def test_contexts_grow_while_they_are_decoded() -> None:
    # A step takes 1 ms and 1 µs for each token in the cache: 1,000 steps from 100 tokens on.
    times = dataclasses.replace(
        made_up(step_s=0.0),
        decode=Grid(rows=(1.0, 2.0), columns=(0.0, 1e6), seconds=((1e-3, 1.001), (1e-3, 1.001))),
    )
    traffic = alone(np.zeros(1), np.full(1, 100), np.full(1, 1001))
    log = simulate(traffic, times, DIRECT, Policy())
    exact = sum(1e-3 + 1e-6 * (101 + n) for n in range(1000))
    assert log.done_s[0] - log.first_s[0] == pytest.approx(exact, rel=1e-3)
