"""What each chip can give a user, and what it gives for its place: fronts over batch and split.

For every chip the usual splits of the model are found (`experiments.usual_split`: each tensor
degree with the fewest stages that hold the model and the largest batch's caches), each is swept
over the batches, and a point stays on the front if no other of the chip's is better both for a user
and per chip.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast, get_args

import numpy as np
import pandas as pd

import emu
from emu.design import label, sweep
from emu.design.sweeping import Executor
from emu.report import Figure, Panel, Report, Series, Table
from experiments.deployment import Served
from experiments.design.stepped import decode_grid, rows_of
from experiments.errors import ExperimentError
from experiments.placing import rules_of
from experiments.results import Results, Row
from experiments.usual_split import Asked, placed
from models.zoo import architecture

NAME = "pareto_coding"
_WIDTHS = (1, 2, 4, 8, 16, 32, 64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What to ask; the config file says what each field means."""

    models: dict[str, Served]
    chips: tuple[str, ...]  # (): all of the catalogue
    stacks: dict[str, str]  # by chip; others run under `stack`
    stack: str
    batch: tuple[int, ...]
    context: int
    executor: str  # threads, or ray

    def __post_init__(self) -> None:
        if not self.models or not self.batch:
            raise ExperimentError("models and batch each need one entry at least")


def chip_names(settings: Settings) -> tuple[str, ...]:
    """All that are asked for."""
    return settings.chips or tuple(name for name in emu.chips() if name != "host")


def run(settings: Settings, results: Results) -> tuple[str, ...]:
    """A row for each model and chip, with all points of its front."""
    asked = [
        {
            "served": served,
            "chip": chip,
            "stack": settings.stacks.get(chip, settings.stack),
            "batch": settings.batch,
            "context": settings.context,
        }
        for served in settings.models.values()
        for chip in chip_names(settings)
    ]
    if settings.executor not in get_args(Executor):
        raise ExperimentError(f"executor must be threads or ray, not {settings.executor!r}")
    executor = cast(Executor, settings.executor)
    return rows_of(NAME, asked, settings, lambda one: _front_of(one, executor), results)


def _front_of(one: Mapping[str, Any], executor: Executor = "threads") -> dict[str, Any]:
    served, chip = one["served"], emu.chip(one["chip"])
    systems = list({label(system): system for system in _systems(one, chip)}.values())
    works = decode_grid(served, tuple(one["batch"]), (one["context"],))
    rules = rules_of(None, chip)
    tables, refused = [], f"{served.model}: no usual split of {chip.name} holds it"
    for system in systems:
        try:
            table = sweep(works, [system], {"usual": rules}, executor=executor, progress=False)
        except emu.EmuError as error:  # a group that no link joins
            refused = str(error)
            continue
        assert isinstance(table, pd.DataFrame)
        tables.append(table[table["fits"]].astype({"system": str}))
    if not any(map(len, tables)):
        raise emu.EmuError(refused)
    best = front(pd.concat(tables, ignore_index=True))
    return {
        "points": best[
            [
                "system", "batch", "tokens_per_s_per_user", "tokens_per_s_per_chip",
                "energy_j_per_mtok", "usd_per_mtok", "binds",
            ]
        ].astype({"system": str, "binds": str}).replace({np.nan: None}).to_dict("list"),
        "systems": [label(system) for system in systems],
    }  # fmt: skip


def _systems(one: Mapping[str, Any], chip: emu.Chip) -> Iterator[emu.System]:
    """The smallest systems of each width that hold the model at the least and the largest batch."""
    served = one["served"]
    stack, rules = emu.stack(one["stack"]), rules_of(None, chip)
    layers = architecture(served.model).config.layers
    for width in _WIDTHS:
        for batch in sorted({one["batch"][0], one["batch"][-1]}):

            def work(_: emu.System, batch: int = batch) -> emu.Work:
                grid = decode_grid(served, (batch,), (one["context"],))
                return grid.work(batch=batch, context=one["context"])

            try:
                _, placement = placed(work, chip, stack, Asked(tensor=width), rules, layers)
            except (emu.EmuError, ExperimentError):
                continue  # not of this width; where none is left, the row says so
            yield placement.system


def front(
    table: pd.DataFrame, x: str = "tokens_per_s_per_user", y: str = "tokens_per_s_per_chip"
) -> pd.DataFrame:
    """The rows of which no other is better in both columns, the fastest for a user first."""
    ordered = table.sort_values([x, y], ascending=False, kind="stable")
    best = ordered[y].astype(float).cummax().shift(fill_value=-np.inf)
    return ordered[ordered[y] > best]


def report(settings: Settings, rows: Sequence[Row]) -> Report:
    """Fronts, and the fastest and the most productive point of each chip."""
    asked = [(s.model, c) for s in settings.models.values() for c in chip_names(settings)]
    found = dict(zip(asked, (row["measured"] for row in rows), strict=True))
    panels, lines, answers, refused = [], [], [], []
    for model in dict.fromkeys(model for model, _ in asked):
        mine = {c: of["points"] for (m, c), of in found.items() if m == model and "points" in of}
        refused += [
            (model, c, of["refused"])
            for (m, c), of in found.items()
            if m == model and "refused" in of
        ]
        panels += list(_panels(model, mine))
        fitted = [c for c in mine if c in settings.stacks]  # what is ideal is no speed of a product
        fastest = max(fitted, key=lambda c: mine[c]["tokens_per_s_per_user"][0], default=None)
        if fastest is not None:
            answers.append(
                f"{model}: of chips with fitted software, fastest for one user on {fastest}, "
                f"{mine[fastest]['tokens_per_s_per_user'][0]:,.0f} tokens/s "
                f"({mine[fastest]['system'][0]})."
            )
        lines += [line for chip, of in mine.items() for line in _lines(model, chip, of)]
    ideal = sorted({c for c in chip_names(settings) if c not in settings.stacks})
    return Report(
        title="Tokens for a user, and per chip",
        answer=(
            *answers,
            f"{settings.context:,} tokens of context. Chips under '{settings.stack}' (no published "
            f"figure of their software was used): {', '.join(ideal) or 'none'}.",
            "This is a model; docs/fidelity.md says how far off it was where it could be checked.",
        ),
        figures=(
            Figure(
                name="pareto_coding",
                title="Fronts over batch and split",
                panels=tuple(panels),
                columns=2,
            ),
        ),
        tables=(
            Table(
                title="Both ends of each front",
                columns=(
                    "model", "system", "batch", "tokens/s per user", "tokens/s per chip",
                    "tokens per joule", "USD per million tokens", "most of the step",
                ),
                rows=tuple(lines),
                note="Joules at the stated power; dollars where the catalogue has a price an hour.",
            ),
            *(
                [
                    Table(
                        title="Refused",
                        columns=("model", "chip", "why"),
                        rows=tuple(refused),
                    )
                ]
                if refused
                else []
            ),
        ),
    )  # fmt: skip


def _panels(model: str, mine: Mapping[str, Mapping[str, Any]]) -> Iterator[Panel]:
    per_chip, per_joule = [], []
    for chip, of in mine.items():
        x = tuple(of["tokens_per_s_per_user"])
        per_chip.append(Series(label=chip, x=x, y=tuple(of["tokens_per_s_per_chip"])))
        joules = of["energy_j_per_mtok"]
        if None not in joules:
            per_joule.append(Series(label=chip, x=x, y=tuple(1e6 / j for j in joules)))
    for what, series in (("tokens/s per chip", per_chip), ("tokens per joule", per_joule)):
        yield Panel(
            title=model,
            x_label="tokens/s per user",
            y_label=what,
            series=tuple(series),
            log_x=True,
            log_y=True,
        )


def _lines(model: str, chip: str, of: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for at in sorted({0, len(of["batch"]) - 1}):
        joules, usd = of["energy_j_per_mtok"][at], of["usd_per_mtok"][at]
        yield (
            model,
            of["system"][at],
            str(of["batch"][at]),
            f"{of['tokens_per_s_per_user'][at]:,.0f}",
            f"{of['tokens_per_s_per_chip'][at]:,.1f}",
            "-" if joules is None else f"{1e6 / joules:,.3g}",
            "-" if usd is None else f"{usd:,.2f}",
            of["binds"][at],
        )
