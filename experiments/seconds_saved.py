"""A coding agent's requests on several systems, and what faster decode can still take off them."""

import dataclasses
from collections.abc import Sequence

from emu.report import Report
from experiments import seconds_saved_report
from experiments.deployment import Deployment, Hardware, Served
from experiments.errors import ExperimentError
from experiments.predicted_rows import table, tables
from experiments.results import Results, Row
from experiments.session_time import Service
from experiments.workloads.sampling import sample
from experiments.workloads.traffic import Traffic
from experiments.workloads.workload import workload

NAME = "seconds_saved"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What to ask; the config file says what each field means."""

    workload: str
    models: dict[str, Served]
    systems: dict[str, Hardware]
    baseline: str
    window_tokens: int
    sessions: int
    seed: int
    service: Service
    assumed: dict[str, float]

    def __post_init__(self) -> None:
        if self.baseline not in self.systems:
            raise ExperimentError(
                f"baseline {self.baseline!r} is none of the systems {', '.join(self.systems)}"
            )
        if not self.models:
            raise ExperimentError("models is empty: name at least one")
        if workload(self.workload).sampler != "sessions":
            raise ExperimentError(f"workload {self.workload} has no requests of several steps")
        if self.sessions < 10:
            raise ExperimentError(f"sessions must be at least 10, not {self.sessions}")
        self.service.writing(workload(self.workload).assuming(self.assumed))


def run(settings: Settings, results: Results) -> tuple[str, ...]:
    """Predict the tables that are not in `results`; returns the keys of all that was asked for."""
    return tables(deployments(settings).values(), results)


def deployments(settings: Settings) -> dict[tuple[str, str], Deployment]:
    """Each model on each system."""
    return {
        (served.model, system): Deployment(
            served=served,
            hardware=hardware,
            window_tokens=settings.window_tokens,
            drafted=settings.service.drafted,
        )
        for served in settings.models.values()
        for system, hardware in settings.systems.items()
    }


def traffic(settings: Settings) -> Traffic:
    """The sessions that are asked of all systems."""
    of = workload(settings.workload).assuming(settings.assumed)
    drawn = sample(of, sessions=settings.sessions, per_s=1.0, seed=settings.seed)
    return drawn.within(settings.window_tokens)


def report(settings: Settings, rows: Sequence[Row]) -> Report:
    """What the rows say."""
    asked = deployments(settings)
    found = {of: table(row) for of, row in zip(asked, rows, strict=True)}
    refused = {of: why for of, why in found.items() if isinstance(why, str)}
    for (model, system), why in refused.items():
        if system == settings.baseline:
            raise ExperimentError(f"{model} on the baseline {system}: {why}")
    times = {of: made for of, made in found.items() if not isinstance(made, str)}
    return seconds_saved_report.report(settings, traffic, times, refused)
