"""A lab's traffic, its promises to users, and the machines it could buy: which, and how many."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import emu
from emu.report import Report
from experiments import fleet_report
from experiments.assumptions import Path, effects
from experiments.costs import Costs
from experiments.deployment import Deployment, Hardware, Served, on_each
from experiments.errors import ExperimentError
from experiments.fleet_known import Fleet
from experiments.fleet_plan import Pair
from experiments.predicted_rows import code, table, tables
from experiments.progress import progress
from experiments.results import Results, Row
from experiments.rows import key, row
from experiments.serving.capacity import Capacity, capacity
from experiments.serving.levels import Level, met
from experiments.serving.policy import Policy
from experiments.serving.simulation import simulate
from experiments.session_time import Service
from experiments.settings import as_dict
from experiments.step_times import StepTimes, check_together
from experiments.workloads.sampling import sample
from experiments.workloads.workload import as_assumed, workload

NAME = "fleet"
SIMULATION = (
    "assumptions", "session_time", "serving/caches", "serving/capacity", "serving/levels",
    "serving/policy", "serving/simulation", "serving/steady", "workloads/drafts",
    "workloads/draws", "workloads/quantiles", "workloads/sampling", "workloads/traffic",
    "workloads/workload",
)  # fmt: skip
ENDS = ("typical", "low", "high")  # of the range of step times
_CAPACITY, _EFFECTS = "capacity", "effects"
_STEP, _WITHIN = 0.1, 0.01  # of promises, and of the rates at which they are kept
_LESS = 3  # of the sessions, for effects


@dataclasses.dataclass(frozen=True, kw_only=True)
class Class:
    """One class of traffic."""

    workload: str
    sessions_per_s: float  # that start, over the whole fleet
    level: Level
    simulated: int = 300  # sessions in each simulation

    def __post_init__(self) -> None:
        workload(self.workload)
        if not 0 < self.sessions_per_s < math.inf or self.simulated < 10:
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
    assumed: dict[str, dict[str, float]]  # by workloads

    def __post_init__(self) -> None:
        check_together("policy.most_together", self.policy.most_together)
        for name in self.assumed:
            as_assumed(name, self.assumed)
        for of in self.classes.values():  # what cannot be drawn is told before anything is computed
            assumed = as_assumed(of.workload, self.assumed)
            sample(assumed, sessions=1, per_s=1.0, seed=self.seed)
            self.service.writing(assumed)
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
                one = _capacity(settings, name, made[system], end)
                results.append(row(of_pair, _CAPACITY, settings, one))
                bar.update()
    found = {(n, s): results[k]["measured"] for n, s, end, k in asked if end == "typical"}
    chosen = {name: _reference(settings, name, found) for name in settings.classes}
    effect_keys = [_key(_EFFECTS, settings, *pair) for pair in chosen.items()]
    with progress(sum(k not in results for k in effect_keys), "elasticities", "class") as bar:
        for pair, of_class in zip(chosen.items(), effect_keys, strict=True):
            if of_class not in results:
                times = made[pair[1]]
                assert not isinstance(times, str)  # or it served nobody
                effects_of = _effects(settings, *pair, times, found[pair]["sessions_per_s"])
                results.append(row(of_class, _EFFECTS, settings, effects_of))
                bar.update()
    return (*table_keys, *(k for *_, k in asked), *effect_keys)


def _asked(settings: Settings) -> Iterator[tuple[str, str, str, str]]:
    """Each class and system at each of `ENDS`, and the key of its row."""
    for name in settings.classes:
        for system in settings.systems:
            for end in ENDS:
                yield name, system, end, _key(_CAPACITY, settings, name, system, steps=end)


def _key(experiment: str, settings: Settings, name: str, system: str, **more: str) -> str:
    """Of a row that simulates one class on one system."""
    of_class, hardware = settings.classes[name], as_dict(settings.systems[system])
    level = {f"level_{n}": v for n, v in as_dict(of_class.level).items()}
    return key(
        experiment,
        code(SIMULATION),
        workload=of_class.workload,
        simulated=of_class.simulated,
        **more,
        **level,
        **changed(of_class.workload, settings.assumed),
        **as_dict(settings.model),
        **{
            f"chip_{n}": str(v).replace(" ", "_")
            for n, v in hardware.items()
            if not n.startswith("price")
        },
        **as_dict(settings.service),
        **as_dict(settings.policy),
        window=settings.window_tokens,
        seed=settings.seed,
    )


def changed(name: str, assumed: dict[str, dict[str, float]]) -> dict[str, float]:
    """What a config assumes of a workload otherwise than its file, as fields of a key."""
    usual = workload(name).assumed
    return {f"assumed_{n}": v for n, v in assumed.get(name, {}).items() if v != usual[n]}


def _capacity(settings: Settings, name: str, times: StepTimes | str, end: str) -> dict[str, Any]:
    if isinstance(times, str):
        return {"sessions_per_s": 0.0, "missed": [times]}
    try:
        return dataclasses.asdict(_found(settings, name, times.at_end(end)))
    except emu.CapacityError as error:
        return {"sessions_per_s": 0.0, "missed": [str(error)]}


def _found(settings: Settings, name: str, times: StepTimes, **more: Any) -> Capacity:
    of_class = settings.classes[name]
    of = as_assumed(of_class.workload, settings.assumed)
    asked = {"sessions": of_class.simulated, **more}
    return capacity(
        of,
        times,
        settings.service.writing(of),
        settings.policy,
        of_class.level,
        seed=settings.seed,
        window=settings.window_tokens,
        **asked,
    )


def _reference(settings: Settings, name: str, found: dict[Pair, dict[str, Any]]) -> str:
    """The first system, not a fast one where there is another, that serves the class.

    Raises ExperimentError where none does.
    """
    able = [s for s in settings.systems if found[name, s]["sessions_per_s"]]
    if not able:
        floors = "; ".join(f"{s}: {', '.join(found[name, s]['missed'])}" for s in settings.systems)
        raise ExperimentError(
            f"class {name}: no system can serve it, even one session at a time ({floors}): ask for "
            "less, or add a system"
        )
    return min(able, key=lambda system: system in settings.fast)


def _effects(
    settings: Settings, name: str, system: str, times: StepTimes, per_s: float
) -> dict[str, Any]:
    """Of what is assumed and of what is promised; see `fleet_report`."""
    of_class = settings.classes[name]
    sessions = max(10, of_class.simulated // _LESS)

    def request_s(moved: Settings) -> float:
        of = as_assumed(of_class.workload, moved.assumed)
        traffic = sample(of, sessions=sessions, per_s=per_s / 2, seed=moved.seed)
        traffic, service = traffic.within(moved.window_tokens), moved.service.writing(of)
        hosts = times.with_hosts(moved.systems[system])
        log = simulate(traffic, hosts, service, moved.policy)
        return float(met(traffic, log, times, service)["request_mean_s"])

    def taken_on(moved: Settings) -> float:
        return _found(moved, name, times, sessions=sessions, within=_WITHIN).sessions_per_s

    def simulated(path: Path) -> bool:
        return (
            path[0] in ("service", "policy")
            or path[:2] == ("assumed", of_class.workload)
            or path == ("systems", system, "host_bytes_per_s_per_chip")
        )

    def promised(path: Path) -> bool:
        return path[:3] == ("classes", name, "level")

    return {
        "class": name,
        "system": system,
        "request_s": dataclasses.asdict(effects(settings, request_s, simulated)),
        "taken_on": dataclasses.asdict(effects(settings, taken_on, promised, _STEP)),
    }


def report(settings: Settings, rows: Sequence[Row]) -> Report:
    """What the rows say."""
    number = len(settings.systems)
    made = dict(zip(settings.systems, map(table, rows[:number]), strict=True))
    found: dict[str, dict[Pair, Any]] = {end: {} for end in ENDS}
    asked = list(_asked(settings))
    for (name, system, end, _), one in zip(
        asked, rows[number : -len(settings.classes)], strict=True
    ):
        found[end][name, system] = one["measured"]
    times = {system: of for system, of in made.items() if not isinstance(of, str)}
    return fleet_report.report(
        Fleet(settings=settings, times=times, found=found["typical"], ends=found),
        [row["measured"] for row in rows[-len(settings.classes) :]],
    )
