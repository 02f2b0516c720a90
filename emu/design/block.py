"""A block of a sweep: all batches and contexts at some of the systems, as columns of a table."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from emu.design.counts import Array
from emu.design.family import Family
from emu.design.grid import SystemGrid
from emu.errors import EmuError
from emu.timeline import PARTS

_PER_MILLION = 1e6


RESULTS = (
    "step_s",
    "tokens_per_s_per_user",
    "tokens_per_s_per_chip",
    "binds",
    "fits",
    "missing_bytes",
    "activations",
    "energy_j_per_mtok",
    "usd_per_mtok",
    *(f"{part}_s" for part in PARTS),
)


def known_columns(columns: Sequence[str] | None) -> tuple[str, ...]:
    """Of the results, those that are asked for; EmuError: one that there is not."""
    if isinstance(columns, str):
        raise EmuError(f"design: columns is a list, such as [{columns!r}]")
    asked = RESULTS if columns is None else tuple(columns)
    if unknown := [name for name in asked if name not in RESULTS]:
        raise EmuError(f"design: no column {unknown[0]!r}; there are {', '.join(RESULTS)}")
    return asked


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """Part of one family; its points are in the order batch, context, system."""

    number: int  # in the order of the sweep
    family: Family
    systems: SystemGrid
    positions: Array  # of the systems in the grid that was asked for
    numbers: tuple[str, ...]  # that vary anywhere in the sweep: columns of every block
    labels: Mapping[str, Any]  # what is the same for all its points: system, placement, shape

    def __len__(self) -> int:
        return len(self.family.batches) * len(self.family.contexts) * len(self.systems)

    def results(self) -> dict[str, Array]:
        """What is computed of each point: arrays [batches, contexts, systems].

        step_s, tokens_per_s_per_user, tokens_per_s_per_chip; binds (a number of
        `emu.timeline.PARTS`: on what most of the step is spent); fits, and missing_bytes (that the
        memory which lacks most has too few, on the fullest chip; below 0: it has so many left);
        activations (the number of the memory that they go through); energy_j_per_mtok and
        usd_per_mtok, at the stated power and price, NaN where none is; and the step's parts,
        `weights_s` and so on.
        """
        made = self.family.steps(self.systems)
        system = self.systems.with_arrays()
        batch = np.array(self.family.batches, np.float64)[:, None, None]
        tokens_per_s = batch / made.seconds
        found = {
            "step_s": made.seconds,
            "tokens_per_s_per_user": 1.0 / made.seconds,
            "tokens_per_s_per_chip": tokens_per_s / system.chips,
            "binds": made.binds,
            "fits": made.missing <= 0,
            "missing_bytes": made.missing,
            "activations": made.scratch,
        }
        chip = system.chip
        for name, per_s in (
            ("energy_j_per_mtok", None if chip.power_w is None else chip.power_w.value),
            (
                "usd_per_mtok",
                None if chip.price_usd_per_hour is None else chip.price_usd_per_hour.value / 3600.0,
            ),
        ):
            rate = np.nan if per_s is None else per_s * (system.chips * _PER_MILLION)
            found[name] = rate / tokens_per_s
        return found | {f"{p}_s": part for p, part in zip(PARTS, made.parts, strict=True)}

    def frame(self, results: Mapping[str, Array]) -> pd.DataFrame:
        """The table: where each point is, then what was computed of it."""
        shape = (len(self.family.batches), len(self.family.contexts), len(self.systems))
        columns: dict[str, Any] = {}
        for name, value in self.labels.items():
            columns[name] = pd.Categorical.from_codes(
                np.zeros(len(self), np.int8), pd.Index([str(value)])
            )
        batch = np.array(self.family.batches)[:, None, None]
        columns["batch"] = np.broadcast_to(batch, shape).ravel()
        context = np.array(self.family.contexts)[None, :, None]
        columns["context"] = np.broadcast_to(context, shape).ravel()
        columns["position"] = np.broadcast_to(self.positions, shape).ravel()
        for name in self.numbers:
            values = self.systems.numbers.get(name, np.nan)
            columns[name] = np.broadcast_to(values, shape).ravel()
        memories = [memory.name for memory in self.systems.system.chip.memories]
        words = {"binds": PARTS, "activations": memories}
        for name, values in results.items():
            flat = values.ravel()
            if name in words:
                columns[name] = pd.Categorical.from_codes(flat, pd.Index(words[name]))
            else:
                columns[name] = flat
        return pd.DataFrame(columns)
