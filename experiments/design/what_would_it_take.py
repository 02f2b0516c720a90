"""The cheapest chip that decodes so many tokens a second for one user.

Inverse design (`emu.design.solve`) over a few numbers of a chip that keeps all weights on it. What
a number costs is assumed: so many dollars a chip at its reference, and in proportion to it (power
1) or to its inverse (power -1, for latencies).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import emu
from emu.chip_table import scaled
from emu.design import Target, numbers_of, solve, with_numbers
from emu.report import Figure, Panel, Report, Series, Table
from experiments.deployment import Served
from experiments.design.stepped import check_steps, decode_grid, rows_of
from experiments.errors import ExperimentError
from experiments.results import Results, Row

NAME = "what_would_it_take"
_STEEPEST = 10.0  # power of a cost: beyond it nothing is told but that a number must not grow


@dataclasses.dataclass(frozen=True, kw_only=True)
class Free:
    """One number that may change, and what it costs on each chip (assumed)."""

    number: str  # as emu.design.numbers_of names it
    low: float
    high: float
    reference: float
    usd: float  # at the reference
    power: float  # of value / reference, by which the cost grows

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < math.inf or not 0 < self.reference < math.inf:
            raise ExperimentError(
                f"free: {self.number} needs low and high that rise from above 0, and a reference "
                f"above 0, not {self.low:g}, {self.high:g} and {self.reference:g}"
            )
        if self.usd < 0 or abs(self.power) > _STEEPEST:
            raise ExperimentError(
                f"free: {self.number} needs usd of at least 0 and a power from -{_STEEPEST:g} to "
                f"{_STEEPEST:g}, not {self.usd:g} and {self.power:g}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What to ask; the config file says what each field means."""

    models: dict[str, Served]
    chip: str
    chips: int
    tensor: int
    pipeline: int
    stack: str
    batch: int
    context: int
    tokens_per_s: tuple[float, ...]
    free: dict[str, Free]
    fixed_usd: float  # of a chip, whatever its numbers
    executor: str  # threads, or ray

    def __post_init__(self) -> None:
        if not self.models or not self.free or not self.tokens_per_s:
            raise ExperimentError("models, free and tokens_per_s each need one entry at least")
        if min(self.tokens_per_s) <= 0 or self.fixed_usd < 0:
            raise ExperimentError("tokens_per_s must be above 0, and fixed_usd at least 0")
        named = [free.number for free in self.free.values()]
        if twice := [number for number in named if named.count(number) > 1]:
            raise ExperimentError(f"free: {twice[0]} is named twice")
        check_steps((self.batch,), self.context)
        with_numbers(self.system, {free.number: free.low for free in self.free.values()})

    @property
    def system(self) -> emu.System:
        """What the chips are as they are."""
        return emu.System(
            emu.chip(self.chip),
            chips=self.chips,
            tensor=self.tensor,
            pipeline=self.pipeline,
            stack=emu.stack(self.stack),
        )


def run(settings: Settings, results: Results) -> tuple[str, ...]:
    """A row for each model and speed."""
    everything = dataclasses.asdict(settings)
    apart = ("models", "tokens_per_s", "executor")
    fixed = {n: everything[n] for n in everything if n not in apart}
    asked = [
        {"model": served, "tokens_per_s": speed, **fixed}
        for served in settings.models.values()
        for speed in settings.tokens_per_s
    ]
    return rows_of(NAME, asked, settings, lambda one: _solved(settings, one), results)


def cost_usd(settings: Settings, system: emu.System) -> Any:
    """Of all chips; traced by JAX."""
    numbers = dict(numbers_of(system))
    each = settings.fixed_usd
    for one in settings.free.values():
        each = each + one.usd * (numbers[one.number] / one.reference) ** one.power
    return system.chips * each


def _solved(settings: Settings, one: Mapping[str, Any]) -> dict[str, Any]:
    served, speed = one["model"], one["tokens_per_s"]
    system = settings.system
    grid = decode_grid(served, (settings.batch,), (settings.context,))
    work = grid.work(batch=settings.batch, context=settings.context)
    found = solve(
        Target(work=work, system=system, rules="on-chip", seconds=1.0 / speed),
        [free.number for free in settings.free.values()],
        {free.number: (free.low, free.high) for free in settings.free.values()},
        lambda of: cost_usd(settings, of),
    )
    as_it_is = emu.place(work, system, "on-chip", allow_overflow=True)
    return {
        "tokens_per_s": 1.0 / found.seconds,
        "usd": found.cost,
        "numbers": found.numbers,
        "fill": found.fill,
        "start": found.start,
        "elasticities": {e.name: e.value for e in found.elasticities[:12]},
        "path": found.path.to_dict("list"),
        "as_it_is_s": float(emu.predict(work, system, as_it_is).seconds),
        "over_bytes": sum(as_it_is.excess_bytes.values()),
    }


def report(settings: Settings, rows: Sequence[Row]) -> Report:
    """What each speed takes, and what it costs."""
    asked = [(m, s) for m in settings.models.values() for s in settings.tokens_per_s]
    answers, lines, paths = [], [], []
    for (served, speed), row in zip(asked, rows, strict=True):
        of = row["measured"]
        if "refused" in of:
            why = of["refused"].removeprefix("design: ")
            answers.append(
                f"{served.model} at {speed:,.0f} tokens/s: not within the bounds ({why})"
            )
            lines.append((served.model, f"{speed:,.0f}", "-", *("-" for _ in settings.free), "-"))
            continue
        strongest = ", ".join(f"{n} {v:+.2f}" for n, v in list(of["elasticities"].items())[:3])
        answers.append(
            f"{served.model} at {of['tokens_per_s']:,.0f} tokens/s: {of['usd']:,.0f} USD of chips; "
            f"as {settings.chip} is, "
            + (
                f"it does not fit ({of['over_bytes'] / 1e9:,.1f} GB over)."
                if of["over_bytes"]
                else f"{1 / of['as_it_is_s']:,.0f} tokens/s."
            )
        )
        lines.append(
            (
                served.model,
                f"{of['tokens_per_s']:,.0f}",
                f"{of['usd']:,.0f}",
                *(_said(f.number, of["numbers"][f.number]) for f in settings.free.values()),
                strongest,
            )
        )
        costs = of["path"]["cost"]
        paths.append(
            Series(
                label=f"{served.model}, {speed:,.0f}/s",
                x=tuple(range(1, len(costs) + 1)),
                y=tuple(costs),
            )
        )
    names = tuple(settings.free)
    return Report(
        title="What would it take?",
        answer=(
            *answers,
            f"{settings.chips} chips like {settings.chip} (tensor {settings.tensor}, pipeline "
            f"{settings.pipeline}), batch {settings.batch}, {settings.context:,} tokens. "
            "What numbers cost is assumed: --config.free.….usd.",
            "The search goes by a clock with rounded corners; the speeds told here are those of "
            "the exact one.",
        ),
        figures=(
            Figure(
                name="what_would_it_take",
                title="Cost of the chips, round by round of the search",
                panels=(
                    Panel(
                        title="the start that won",
                        x_label="round",
                        y_label="USD",
                        series=tuple(paths),
                        log_y=True,
                    ),
                ),
            ),
        )
        if paths
        else (),
        tables=(
            Table(
                title="The cheapest chips",
                columns=("model", "tokens/s per user", "USD", *names, "strongest elasticities"),
                rows=tuple(lines),
                note="Elasticity: by how many per cent the step grows when the number does by one.",
            ),
        ),
    )


def _said(number: str, value: float) -> str:
    """The value of a number of this name, with its unit."""
    ends = (("bytes_per_s", "B/s"), ("_bytes", "B"), ("_s", "s"), ("_w", "W"))
    of_peak = "FLOP/s" if "peak_flops_per_s/" in number else ""
    return scaled(value, next((unit for end, unit in ends if number.endswith(end)), of_peak))
