"""A few minutes' worth of the residency sweep and of HumanEval, and one answer from the two.

The sweep says how many times as fast weights are read when they stay on chip; HumanEval says how
long a token takes with all its weights off chip. The quotient is how long it would take if they
stayed on chip, which this machine cannot show where the model is larger than its cache: an
extrapolation, and called so.
"""

import dataclasses
from collections.abc import Sequence

from emu.report import Report
from experiments import cliff, cliff_report, cliff_summary, decode_latency, decode_report
from experiments.cliff_summary import Point
from experiments.decode_summary import Answer, answered, groups
from experiments.results import ResultsFile, Row
from experiments.wording import listed, mb, ms
from models.checkpoint import open_checkpoint
from models.named import resolve


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Both parts' settings; `model` is theirs too unless they say otherwise."""

    model: str
    cliff: cliff.Settings
    humaneval: decode_latency.Settings


def run(settings: Settings, results: ResultsFile) -> tuple[str, ...]:
    """Measure what is not yet in `results`; returns the keys of all that was asked for."""
    checkpoint = open_checkpoint(resolve(settings.model))
    cliff.plan(settings.cliff, checkpoint.config)  # what cannot be done is said before the first
    decode_latency.plan(settings.humaneval, checkpoint)  # part has taken its minutes
    return (
        *cliff.run(settings.cliff, results),
        *decode_latency.run(settings.humaneval, results),
    )


def report(settings: Settings, rows: Sequence[Row]) -> Report:
    """One report of both parts, the answer first."""
    points = [cliff_summary.point(r) for r in rows if r["experiment"] == cliff.NAME]
    answers = [answered(r) for r in rows if r["experiment"] == decode_latency.NAME]
    return Report(
        title=f"{settings.model}: how long a token takes, on chip and off chip",
        answer=(*per_token(points, answers, settings.model), *cliff_report.answer(points)),
        figures=(cliff_report.figure(points), decode_report.figure(answers)),
        tables=(*decode_report.tables(answers), *cliff_report.tables(points)),
    )


def per_token(points: Sequence[Point], answers: Sequence[Answer], model: str) -> tuple[str, ...]:
    """What a token takes from off chip, and what it would take if its weights stayed on chip."""
    off, on = [], []
    for group in groups(answers):
        top = cliff_summary.best(points, group.dtype)
        if group.placement != "off-chip" or top is None:
            continue
        faster = max(1.0, cliff_summary.advantage(top))
        size = mb(group.answers[0].weight_bytes)
        off.append(f"{ms(group.tpot_s)} ms in {group.dtype} ({size} MB)")
        on.append(f"{ms(group.tpot_s / faster)} ms")
    if not off:
        return decode_report.answer(answers, model)
    names = (answers[0].off_chip, answers[0].on_chip)
    return (
        f"On this machine one token of {model} takes {listed(off)} with its weights in {names[0]}; "
        f"if they all stayed in {names[1]}, about {listed(on)}.",
    )
