"""Traffic of a workload or a trace on one instance of each system: what its users meet."""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import emu
from emu.report import Report, Table
from experiments.assumptions import Effects, Path, effects, effects_table, number_table
from experiments.deployment import Deployment, Hardware, Served, on_each
from experiments.errors import ExperimentError
from experiments.fleet import ENDS, SIMULATION, changed
from experiments.predicted_rows import code, table, tables
from experiments.progress import progress
from experiments.results import Results, Row
from experiments.rows import key, row
from experiments.seconds_saved_report import MODEL_NOTE
from experiments.serving.levels import met
from experiments.serving.policy import Policy
from experiments.serving.simulation import PLACES, simulate
from experiments.session_time import Service
from experiments.settings import as_dict
from experiments.step_times import StepTimes, check_together
from experiments.wording import figures
from experiments.workloads.sampling import sample
from experiments.workloads.traces import read_trace
from experiments.workloads.traffic import Traffic
from experiments.workloads.workload import as_assumed, workload
from models.fingerprint import fingerprint

NAME = "traffic"
_EFFECTS = "effects"
_LESS = 10  # of the sessions, for effects


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What to ask; the config file says what each field means."""

    model: Served
    systems: dict[str, Hardware]
    workload: str
    trace: str  # a file to replay instead of the workload; "" for none
    sessions: int
    sessions_per_s: float
    window_tokens: int
    seed: int
    service: Service
    policy: Policy
    baseline: str  # the system that elasticities are told of
    assumed: dict[str, dict[str, float]]  # by workloads

    def __post_init__(self) -> None:
        check_together("policy.most_together", self.policy.most_together)
        if self.baseline not in self.systems:
            raise ExperimentError(
                f"baseline {self.baseline!r} is none of the systems {', '.join(self.systems)}"
            )
        if not self.trace:
            workload(self.workload)
        for name in self.assumed:
            as_assumed(name, self.assumed)
        service(self)


def traffic(settings: Settings) -> Traffic:
    """What is served, cut to the model's window."""
    if settings.trace:
        return read_trace(settings.trace).within(settings.window_tokens)
    of = as_assumed(settings.workload, settings.assumed)
    drawn = sample(
        of, sessions=settings.sessions, per_s=settings.sessions_per_s, seed=settings.seed
    )
    return drawn.within(settings.window_tokens)


def service(settings: Settings) -> Service:
    """How what is served is written."""
    of = None if settings.trace else as_assumed(settings.workload, settings.assumed)
    return settings.service.writing(of)


def run(settings: Settings, results: Results) -> tuple[str, ...]:
    """Predict and simulate what is not in `results`; returns the keys of all that was asked for."""
    served = traffic(settings)
    table_keys = tables(deployments(settings).values(), results)
    made = dict(zip(settings.systems, (table(results[k]) for k in table_keys), strict=True))
    asked = list(_asked(settings))
    with progress(sum(k not in results for *_, k in asked), "simulating", "system") as bar:
        for system, end, name in asked:
            if name not in results:
                measured = _measured(settings, served, made[system], end)
                results.append(row(name, NAME, settings, measured))
                bar.update()
    return (*table_keys, *(k for *_, k in asked))


def _measured(
    settings: Settings, served: Traffic, times: StepTimes | str, end: str
) -> dict[str, Any]:
    if isinstance(times, str):
        return {"refused": times}
    if end == _EFFECTS:
        return dataclasses.asdict(_effects(settings, times))
    try:
        return {"met": _met(settings, served, times.at_end(end))}
    except emu.CapacityError as error:
        return {"refused": str(error)}


def _met(settings: Settings, served: Traffic, times: StepTimes) -> dict[str, Any]:
    log = simulate(served, times, service(settings), settings.policy)
    return met(served, log, times, service(settings))


def _effects(settings: Settings, times: StepTimes) -> Effects:
    """On the model's part of the mean request, of a tenth of the sessions; of a trace, all."""
    fewer = dataclasses.replace(settings, sessions=max(10, settings.sessions // _LESS))

    def request_s(moved: Settings) -> float:
        hosts = times.with_hosts(moved.systems[moved.baseline])
        return float(_met(moved, traffic(moved), hosts)["request_mean_s"])

    def simulated(path: Path) -> bool:
        return (
            path[0] in ("service", "policy")
            or path == ("systems", settings.baseline, "host_bytes_per_s_per_chip")
            or (not settings.trace and path == ("sessions_per_s",))
            or (not settings.trace and path[:2] == ("assumed", settings.workload))
        )

    try:
        return effects(fewer, request_s, simulated)
    except emu.CapacityError:  # which its own row tells
        return Effects(base=0.0, step=0.0, slopes=())


def deployments(settings: Settings) -> dict[str, Deployment]:
    """The model on each system."""
    return on_each(
        settings.model, settings.systems, settings.window_tokens, settings.service.drafted
    )


def _asked(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Each system at each end of its step times, and the key of its row; then the effects."""
    of: dict[str, Any] = {
        "workload": settings.workload,
        "sessions": settings.sessions,
        "per_s": settings.sessions_per_s,
        "seed": settings.seed,
    }
    if settings.trace:
        of = {"trace": fingerprint(pathlib.Path(settings.trace))}
    else:
        of |= changed(settings.workload, settings.assumed)
    ends = [(system, end) for system in settings.systems for end in ENDS]
    for system, end in (*ends, (settings.baseline, _EFFECTS)):
        fields = as_dict(settings.systems[system])
        yield (
            system,
            end,
            key(
                NAME,
                code(SIMULATION),
                **of,
                steps=end,
                **as_dict(settings.model),
                **{f"chip_{n}": str(v).replace(" ", "_") for n, v in fields.items()},
                **as_dict(settings.service),
                **as_dict(settings.policy),
                window=settings.window_tokens,
            ),
        )


def report(settings: Settings, rows: Sequence[Row]) -> Report:
    """What the rows say."""
    number = len(settings.systems)
    made = dict(zip(settings.systems, map(table, rows[:number]), strict=True))
    found = {
        (system, end): row["measured"]
        for (system, end, _), row in zip(_asked(settings), rows[number:], strict=True)
    }
    lines, refused = [], []
    request_p50_s: dict[str, tuple[float, str]] = {}
    for system, times in made.items():
        one = found[system, "typical"]
        if isinstance(times, str) or "refused" in one:
            refused.append((system, one["refused"]))
            continue
        of, where = one["met"], one["met"]["places"]
        ends = [found[system, end]["met"] for end in ("low", "high")]
        request_p50_s[system] = of["request_p50_s"], _with_ends("request_p50_s", of, ends)
        lines.append(
            (
                system,
                times.system,
                _with_ends("ttft_p50_s", of, ends),
                _with_ends("ttft_p99_s", of, ends),
                _with_ends("tokens_per_s_p50", of, ends),
                _with_ends("request_p50_s", of, ends),
                f"{of['busy']:.0%}",
                " / ".join(f"{where[place]:,}" for place in PLACES),
                str(of["refused"]),
            )
        )
    what = settings.trace or f"{settings.sessions:,} sessions of {settings.workload}"
    calls = next((one["met"]["calls"] for one in found.values() if "met" in one), 0)
    tables = [
        Table(
            title=f"{what}, {calls:,} calls, on one instance of each system",
            columns=(
                "system", "chips", "TTFT p50 s", "TTFT p99 s", "tokens/s", "request p50 s", "busy",
                "prefix: " + " / ".join(PLACES), "refused",
            ),
            rows=tuple(lines),
            note="Request: the model's part. Prefix: where a call found its own: none before, in "
            "the memory it is used in, at the hosts, or gone (as an agent's is where its session "
            "begins): then it is prefilled. Of calls after a fifth of the time. "
            "In brackets: simulated again with step times at both ends of their 80 % range.",
        )
    ]  # fmt: skip
    if refused:
        tables.append(
            Table(title="What cannot be served", columns=("system", "why"), rows=tuple(refused))
        )
    moved = found[settings.baseline, _EFFECTS]
    if moved.get("slopes"):
        felt = f"model's part of the mean request, in seconds, on {settings.baseline}"
        tables.append(effects_table(Effects(**moved), felt))
    tables.append(number_table({n: of for n, of in made.items() if not isinstance(of, str)}))
    return Report(
        title=f"{settings.model.model} serves {what}",
        answer=(*_answer(request_p50_s, settings.baseline), MODEL_NOTE),
        figures=(),
        tables=tuple(tables),
    )


def _answer(request_p50_s: Mapping[str, tuple[float, str]], baseline: str) -> Iterator[str]:
    """Who answers the median request soonest; request_p50_s: by system, the figure and its text."""
    if not request_p50_s:
        yield "None of the systems can serve this."
        return
    fastest = min(request_p50_s, key=lambda system: request_p50_s[system][0])
    against = ""
    if baseline in request_p50_s and baseline != fastest:
        against = f", and {request_p50_s[baseline][1]} s on {baseline}"
    yield (
        f"Half of the requests wait for the model for at most {request_p50_s[fastest][1]} s on "
        f"{fastest}, where that is least{against}."
    )


def _with_ends(name: str, of: Mapping[str, float], ends: Sequence[Mapping[str, float]]) -> str:
    """A figure, and what it is at the ends of step times, the smaller one first."""
    low, high = sorted(end[name] for end in ends)
    return f"{figures(of[name])} ({figures(low)} to {figures(high)})"
