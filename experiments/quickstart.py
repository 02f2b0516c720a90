"""A few minutes' worth of the residency sweep and of HumanEval, and one answer from the two.

The sweep says how many times as fast weights are read when they stay on chip; HumanEval says how
long a token takes with all its weights off chip. The quotient is how long it would take if they
stayed on chip and the whole step gained what the layers gained, which this machine cannot show
where the model is larger than its cache: an extrapolation, and called so.
"""

import dataclasses
from collections.abc import Sequence

from emu.report import Report
from experiments import (
    cliff,
    cliff_report,
    cliff_summary,
    cliff_tables,
    decode_latency,
    decode_report,
)
from experiments.cliff_summary import Point
from experiments.decode_summary import Answer, answered, groups
from experiments.results import Results, Row
from experiments.wording import figures, listed, mb, ms


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Both parts' settings; `model` is theirs too unless they say otherwise."""

    model: str
    cliff: cliff.Settings
    humaneval: decode_latency.Settings


def plan(settings: Settings) -> tuple[cliff.Plan, decode_latency.Plan]:
    """What `run` takes: what cannot be done is said before the first part has taken its minutes."""
    return cliff.plan(settings.cliff), decode_latency.plan(settings.humaneval)


def run(planned: tuple[cliff.Plan, decode_latency.Plan], results: Results) -> tuple[str, ...]:
    """Measure what is not yet in `results`; returns the keys of all that was asked for."""
    sweep, answers = planned
    return (*cliff.run(sweep, results), *decode_latency.run(answers, results))


def report(settings: Settings, rows: Sequence[Row]) -> Report:
    """One report of both parts, the answer first."""
    points = [cliff_summary.point(r) for r in rows if r["experiment"] == cliff.NAME]
    answers = [answered(r) for r in rows if r["experiment"] == decode_latency.NAME]
    return Report(
        title=f"{settings.model}: how long a token takes, on chip and off chip",
        answer=(*per_token(points, answers, settings.model), *cliff_report.answer(points)),
        figures=(cliff_report.figure(points), decode_report.figure(answers)),
        tables=(*decode_report.tables(answers), *cliff_tables.tables(points)),
    )


def per_token(points: Sequence[Point], answers: Sequence[Answer], model: str) -> tuple[str, ...]:
    """What a token takes from off chip, and an extrapolation to weights that stay on chip."""
    off = [group for group in groups(answers) if group.placement == "off-chip"]
    if not off:
        return decode_report.answer(answers, model)
    times = [f"{ms(g.tpot_s)} ms in {g.dtype} ({mb(g.answers[0].weight_bytes)} MB)" for g in off]
    names = (answers[0].off_chip, answers[0].on_chip)
    measured = (
        f"On this machine one token of {model} takes {listed(times)} with its weights in "
        f"{names[0]}."
    )
    guesses = []
    for group in off:
        top = cliff_summary.best(points, group.dtype)
        if top is None or top[0].one_memory or top[0].excess_bytes:
            continue
        gain = cliff_summary.advantage(top)
        if gain >= cliff_summary.SEEN:
            mark = ", disturbed by other processes" if cliff_summary.disturbed(top) else ""
            guesses.append(
                f"{ms(group.tpot_s / gain)} ms in {group.dtype} ({figures(gain)} times at "
                f"{mb(top[0].weight_bytes)} MB{mark})"
            )
    if not guesses:
        return (measured,)
    return (
        measured,
        f"Extrapolated, not measured: {listed(guesses)} if all weights stayed in {names[1]}. That "
        "supposes that the whole step, the output head too, gains what the layers alone gained at "
        "the size in brackets.",
    )
