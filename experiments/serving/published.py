"""The simulation against published figures of decoding under load.

A row `loaded` of experiments/measured/decode_cases.csv says that so many clients (`batch`) each
asked again as soon as they were answered, and how many milliseconds one of them saw between tokens.
The simulation does the same: prompts of other clients, chunked, come between their tokens.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from experiments.cases import Case
from experiments.deployment import Deployment, Hardware, Served
from experiments.serving.policy import Policy
from experiments.serving.simulation import simulate
from experiments.session_time import Service
from experiments.step_times import FINE, Axes, StepTimes, step_times
from experiments.workloads.traffic import Traffic

_CALLS = 8  # of each client; the first of each, which all come at once, is left out


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared:
    """One case, simulated; seconds between two tokens of one client."""

    case: Case
    simulated_s: float

    @property
    def error(self) -> float:
        """simulated ÷ measured − 1."""
        return self.simulated_s / self.case.measured_s - 1


def compared(cases: Iterator[Case], axes: Axes = FINE) -> Iterator[Compared]:
    """The cases under load that say how long prompts and answers are; tables are made once each.

    axes: of the tables.
    """
    made: dict[Deployment, StepTimes] = {}
    for case in cases:
        asked = case.question
        if case.metric != "loaded" or not case.input_tokens or not case.output_tokens:
            continue
        if asked.tokens_per_step > 1 or not isinstance(asked.chip, str):
            continue
        deployment = Deployment(
            served=Served(model=asked.model, weights=asked.weights, kv=asked.kv),
            hardware=Hardware(
                chip=asked.chip,
                stack=str(asked.stack),
                chips=asked.chips or 0,
                tensor=asked.tensor or 0,
                pipeline=asked.pipeline or 0,
                expert=asked.expert or 0,
            ),
            window_tokens=1024 * -(-(case.input_tokens + case.output_tokens) // 1024),
        )
        if deployment not in made:
            made[deployment] = step_times(deployment, axes)
        yield Compared(case=case, simulated_s=_gap_s(case, made[deployment]))


def _gap_s(case: Case, times: StepTimes) -> float:
    clients = case.question.batch
    assert case.input_tokens is not None
    assert case.output_tokens is not None
    session = np.repeat(np.arange(clients), _CALLS)
    calls = len(session)
    traffic = Traffic(
        start_s=np.zeros(clients),
        session=session,
        request=session,
        delay_s=np.zeros(calls),
        prefix_tokens=np.zeros(calls, np.int64),
        append_tokens=np.full(calls, case.input_tokens),
        output_tokens=np.full(calls, case.output_tokens),
        tool_s=np.zeros(calls),
        observed_llm_s=np.full(calls, np.nan),
    )
    log = simulate(traffic, times, Service(network_s=0.0), Policy(most_together=clients))
    gaps = (log.done_s - log.first_s) / (case.output_tokens - 1)
    later = np.arange(calls) % _CALLS > 0
    return float(gaps[later].mean())
