"""What each chip can give a user, and what it gives for its place: fronts over batch and split.

For every chip the splits of the model are searched (`experiments.design.splits`), each is swept
over the batches, and a point stays on the front if no other of the chip's is better both for a user
and per chip. A chip's power and price are the same for all its points, so that its front per joule
and per dollar has the same points. For each batch alone two splits are told: that with the shortest
step, and that with the most tokens per chip.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

import emu
from emu.design import sweep
from experiments.costs import Costs
from experiments.deployment import Served
from experiments.design.splits import degrees, shared_evenly, systems
from experiments.design.stepped import check_steps, decode_grid, rows_of
from experiments.errors import ExperimentError
from experiments.placing import rules_of
from experiments.results import Results

NAME = "pareto_coding"
COLUMNS = (
    "split", "batch", "tokens_per_s_per_user", "tokens_per_s_per_chip", "energy_j_per_mtok",
    "binds",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What to ask; the config file says what each field means."""

    models: dict[str, Served]
    chips: tuple[str, ...]  # (): all of the catalogue
    stacks: dict[str, str]  # by chip; others run under `stack`
    stack: str
    batch: tuple[int, ...]
    context: int
    users: tuple[float, ...]  # tokens/s that a user is to have, of which the best chips are told
    usd_per_chip_hour: dict[str, float]  # assumed; others: the catalogue's
    costs: Costs
    executor: str  # threads, or ray

    def __post_init__(self) -> None:
        if not self.models:
            raise ExperimentError("models needs one entry at least")
        check_steps(self.batch, self.context)
        if len(set(self.chips)) < len(self.chips) or "host" in self.chips:
            raise ExperimentError(f"chips are of the catalogue, each once, not {self.chips}")
        for name in (*self.chips, *self.stacks, *self.usd_per_chip_hour):
            emu.chip(name)  # an unknown one is an error, and not a row that says so
        for name in (self.stack, *self.stacks.values()):
            emu.stack(name)
        if list(self.users) != sorted(set(self.users)) or min(self.users, default=1) <= 0:
            raise ExperimentError(f"users must be rising numbers above 0, not {self.users}")
        if wrong := [c for c, usd in self.usd_per_chip_hour.items() if usd <= 0]:
            raise ExperimentError(f"usd_per_chip_hour of {wrong[0]} must be above 0")

    @property
    def asked(self) -> tuple[tuple[Served, str], ...]:
        """Each model on each chip, in the order of the rows."""
        chips = self.chips or tuple(name for name in emu.chips() if name != "host")
        return tuple((served, chip) for served in self.models.values() for chip in chips)


def run(settings: Settings, results: Results) -> tuple[str, ...]:
    """A row for each model and chip: its front, and the best splits of each batch."""
    asked = [
        {
            "served": served,
            "chip": chip,
            "stack": settings.stacks.get(chip, settings.stack),
            "batch": settings.batch,
            "context": settings.context,
        }
        for served, chip in settings.asked
    ]
    return rows_of(NAME, asked, settings, _searched, results)


def _searched(one: Mapping[str, Any]) -> dict[str, Any]:
    served, chip, context = one["served"], emu.chip(one["chip"]), one["context"]
    rules = rules_of(None, chip)
    tables, refused = [], f"{served.model}: no split of {chip.name} holds it"
    for system in systems(served, chip, emu.stack(one["stack"]), one["batch"], context):
        works = decode_grid(served, shared_evenly(one["batch"], system.data), (context,))
        try:
            table = sweep(works, [system], {"usual": rules}, progress=False)
        except emu.EmuError as error:  # a group that no link joins
            refused = str(error)
            continue
        assert isinstance(table, pd.DataFrame)
        tables.append(table[table["fits"]].assign(split=degrees(system)).astype({"binds": str}))
    if not any(map(len, tables)):
        raise emu.EmuError(refused)
    every = pd.concat(tables, ignore_index=True)
    return {
        "front": _plain(front(every)),
        "fastest": _plain(_best_of_each_batch(every, "tokens_per_s_per_user")),
        "most_per_chip": _plain(_best_of_each_batch(every, "tokens_per_s_per_chip")),
        "splits": sorted(set(every["split"])),
    }


def front(
    table: pd.DataFrame, x: str = "tokens_per_s_per_user", y: str = "tokens_per_s_per_chip"
) -> pd.DataFrame:
    """The rows of which no other is better in both columns, the fastest for a user first."""
    ordered = table.sort_values([x, y], ascending=False, kind="stable")
    best = ordered[y].astype(float).cummax().shift(fill_value=-np.inf)
    return ordered[ordered[y] > best]


def _best_of_each_batch(table: pd.DataFrame, column: str) -> pd.DataFrame:
    return table.loc[table.groupby("batch")[column].idxmax()]


def _plain(table: pd.DataFrame) -> dict[str, list[Any]]:
    """As JSON takes it, column by column."""
    return {name: table[name].replace({np.nan: None}).tolist() for name in COLUMNS}
