"""A lab's traffic, its promises to users, and the machines it could buy: which, and how many."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import emu
from emu.report import Report
from experiments import fleet_report
from experiments.costs import Costs
from experiments.deployment import Deployment, Hardware, Served, on_each
from experiments.errors import ExperimentError
from experiments.fleet_known import Fleet
from experiments.fleet_plan import Pair
from experiments.predicted_rows import code, table, tables
from experiments.progress import progress
from experiments.results import Results, Row
from experiments.rows import key, row
from experiments.serving.capacity import capacity
from experiments.serving.levels import Level
from experiments.serving.policy import Policy
from experiments.session_time import Service
from experiments.settings import as_dict
from experiments.step_times import StepTimes
from experiments.workloads.workload import workload

NAME = "fleet"
SIMULATION = (
    "session_time", "serving/caches", "serving/capacity", "serving/levels", "serving/policy",
    "serving/simulation", "workloads/quantiles", "workloads/sampling", "workloads/traffic",
)  # fmt: skip
ENDS = ("typical", "low", "high")  # of the range of step times
_CAPACITY = "capacity"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Class:
    """One class of traffic."""

    workload: str
    sessions_per_s: float  # that start, over the whole fleet
    level: Level
    simulated: int = 300  # sessions in each simulation

    def __post_init__(self) -> None:
        workload(self.workload)
        if self.sessions_per_s <= 0 or self.simulated < 10:
            raise ExperimentError(
                f"class of {self.workload}: sessions_per_s must be positive and simulated at "
                f"least 10, not {self.sessions_per_s:g} and {self.simulated}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What to ask; the config file says what each field means."""

    model: Served
    systems: dict[str, Hardware]
    fast: tuple[str, ...]  # those whose share of the calls is asked for
    unproven: tuple[str, ...]  # whose software nobody has published figures of
    classes: dict[str, Class]
    window_tokens: int
    seed: int
    service: Service
    policy: Policy
    costs: Costs

    def __post_init__(self) -> None:
        if not self.classes or not self.systems:
            raise ExperimentError("classes and systems must not be empty")
        for name in (*self.fast, *self.unproven):
            if name not in self.systems:
                raise ExperimentError(
                    f"fast or unproven: {name!r} is none of the systems {', '.join(self.systems)}"
                )
        if not set(self.systems) - set(self.fast):
            raise ExperimentError("fast: leave at least one system to compare with")


def deployments(settings: Settings) -> dict[str, Deployment]:
    """The model on each system."""
    return on_each(
        settings.model, settings.systems, settings.window_tokens, settings.service.drafted
    )


def run(settings: Settings, results: Results) -> tuple[str, ...]:
    """Predict and simulate what is not in `results`; returns the keys of all that was asked for.

    Raises ExperimentError for a class that no system can serve: it says each one's floor.
    """
    table_keys = tables(deployments(settings).values(), results)
    made = dict(zip(settings.systems, (table(results[k]) for k in table_keys), strict=True))
    asked = list(_asked(settings))
    with progress(sum(k not in results for *_, k in asked), "capacity", "pair") as bar:
        for name, system, end, of_pair in asked:
            if of_pair not in results:
                found = _capacity(settings, name, made[system], end)
                results.append(row(of_pair, _CAPACITY, settings, found))
                bar.update()
    for name in settings.classes:
        of_class = [(s, k) for n, s, end, k in asked if n == name and end == "typical"]
        _check_served(name, {s: results[k]["measured"] for s, k in of_class})
    return (*table_keys, *(k for *_, k in asked))


def _asked(settings: Settings) -> Iterator[tuple[str, str, str, str]]:
    """Each class and system at each of `ENDS`, and the key of its row."""
    for name, of_class in settings.classes.items():
        for system, deployment in deployments(settings).items():
            fields = as_dict(deployment)
            hardware = {n: v for n, v in fields["hardware"].items() if not n.startswith("price")}
            level = {f"level_{n}": v for n, v in as_dict(of_class.level).items()}
            for end in ENDS:
                of_pair = key(
                    _CAPACITY,
                    code(SIMULATION),
                    workload=of_class.workload,
                    simulated=of_class.simulated,
                    steps=end,
                    **level,
                    **fields["served"],
                    **{f"chip_{n}": str(v).replace(" ", "_") for n, v in hardware.items()},
                    **as_dict(settings.service),
                    **as_dict(settings.policy),
                    window=settings.window_tokens,
                    seed=settings.seed,
                )
                yield name, system, end, of_pair


def _capacity(settings: Settings, name: str, times: StepTimes | str, end: str) -> dict[str, Any]:
    if isinstance(times, str):
        return {"sessions_per_s": 0.0, "missed": [times]}
    of_class = settings.classes[name]
    try:
        found = capacity(
            workload(of_class.workload),
            times.at_end(end),
            settings.service,
            settings.policy,
            of_class.level,
            sessions=of_class.simulated,
            seed=settings.seed,
            window=settings.window_tokens,
        )
    except emu.CapacityError as error:
        return {"sessions_per_s": 0.0, "missed": [str(error)]}
    return dataclasses.asdict(found)


def _check_served(name: str, found: dict[str, dict[str, Any]]) -> None:
    if not any(made["sessions_per_s"] for made in found.values()):
        floors = "; ".join(f"{system}: {', '.join(m['missed'])}" for system, m in found.items())
        raise ExperimentError(
            f"class {name}: no system can serve it, even one session at a time ({floors}): ask for "
            "less, or add a system"
        )


def report(settings: Settings, rows: Sequence[Row]) -> Report:
    """What the rows say."""
    number = len(settings.systems)
    made = dict(zip(settings.systems, map(table, rows[:number]), strict=True))
    found: dict[str, dict[Pair, Any]] = {end: {} for end in ENDS}
    for (name, system, end, _), one in zip(_asked(settings), rows[number:], strict=True):
        found[end][name, system] = one["measured"]
    times = {system: of for system, of in made.items() if not isinstance(of, str)}
    return fleet_report.report(
        Fleet(settings=settings, times=times, found=found["typical"], ends=found)
    )
