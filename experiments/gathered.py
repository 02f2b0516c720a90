"""Rows of any number of workdirs, local or remote, as one table to draw from."""

import dataclasses
from collections.abc import Sequence

import pandas as pd

from emu.report import Report
from experiments import predicted_rows, seconds_saved
from experiments.results import Row
from experiments.workdir import read


def gathered(workdirs: Sequence[str]) -> tuple[list[Row], pd.DataFrame]:
    """All finished rows of all workdirs, as they are and as a table with one line for each.

    Of rows that were measured again in a workdir, of other weights or by another JAX, only the last
    is kept. The table has the columns `workdir`, `machine` (device, and how many), `experiment`,
    `finished`, and one for each measured figure (`latency.median_s`).

    Raises ExperimentError where a workdir has no finished rows, or a damaged one.
    """
    kept: dict[tuple[str, str], Row] = {}
    for workdir in workdirs:
        kept |= {(workdir, row["key"].rsplit(" @ ", 1)[0]): row for row in read(workdir)}
    rows = list(kept.values())
    table = pd.json_normalize([row["measured"] for row in rows], max_level=1)
    first = {
        "workdir": [workdir for workdir, _ in kept],
        "machine": [_machine(row) for row in rows],
        "experiment": [row["experiment"] for row in rows],
        "finished": pd.to_datetime([row["finished"] for row in rows]),
    }
    return rows, pd.concat([pd.DataFrame(first), table], axis=1)


def sessions(rows: Sequence[Row], settings: seconds_saved.Settings) -> Report | None:
    """The report of coding sessions on those systems of the settings that there are rows of.

    None where there are none. Raises ExperimentError where the baseline is not among them.
    """
    found = {
        (row["config"]["served"]["model"], row["config"]["hardware"]["chip"]): row
        for row in rows
        if row["experiment"] == predicted_rows.NAME
    }
    if not found:
        return None
    settings = dataclasses.replace(
        settings,
        models={n: m for n, m in settings.models.items() if m.model in {m for m, _ in found}},
        systems={n: s for n, s in settings.systems.items() if s.chip in {c for _, c in found}},
    )
    asked = [(m.model, s.chip) for m in settings.models.values() for s in settings.systems.values()]
    return seconds_saved.report(settings, [found[of] for of in asked])


def _machine(row: Row) -> str:
    machine = row["machine"]
    name = machine["processor"] if machine["backend"] == "cpu" else machine["device"]
    count = machine["cores"] if machine["backend"] == "cpu" else machine["devices"]
    return f"{name} x {count}"
