"""Traffic of a workload or a trace on one instance of each system: what its users meet."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import emu
from emu.report import Report, Table
from experiments.deployment import Deployment, Hardware, Served, on_each
from experiments.errors import ExperimentError
from experiments.fleet import SIMULATION
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
from experiments.wording import figures
from experiments.workloads.sampling import sample
from experiments.workloads.traces import read_trace
from experiments.workloads.traffic import Traffic
from experiments.workloads.workload import workload
from models.fingerprint import fingerprint

NAME = "traffic"


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

    def __post_init__(self) -> None:
        if not self.systems:
            raise ExperimentError("systems is empty: name at least one")
        if not self.trace:
            workload(self.workload)


def traffic(settings: Settings) -> Traffic:
    """What is served, cut to the model's window."""
    if settings.trace:
        return read_trace(settings.trace).within(settings.window_tokens)
    of = workload(settings.workload)
    drawn = sample(
        of, sessions=settings.sessions, per_s=settings.sessions_per_s, seed=settings.seed
    )
    return drawn.within(settings.window_tokens)


def run(settings: Settings, results: Results) -> tuple[str, ...]:
    """Predict and simulate what is not in `results`; returns the keys of all that was asked for."""
    served = traffic(settings)
    table_keys = tables(_deployments(settings).values(), results)
    asked = list(_asked(settings))
    with progress(sum(k not in results for _, k in asked), "simulating", "system") as bar:
        for (_, name), table_key in zip(asked, table_keys, strict=True):
            if name in results:
                continue
            times = table(results[table_key])
            measured: dict[str, Any]
            try:
                if isinstance(times, str):
                    raise emu.CapacityError(times)
                log = simulate(served, times, settings.service, settings.policy)
                measured = {"met": met(served, log, times, settings.service)}
            except emu.CapacityError as error:
                measured = {"refused": str(error)}
            results.append(row(name, NAME, settings, measured))
            bar.update()
    return (*table_keys, *(k for _, k in asked))


def _deployments(settings: Settings) -> dict[str, Deployment]:
    return on_each(
        settings.model, settings.systems, settings.window_tokens, settings.service.drafted
    )


def _asked(settings: Settings) -> Iterator[tuple[str, str]]:
    """Each system, and the key of its row."""
    of: dict[str, Any] = {
        "workload": settings.workload,
        "sessions": settings.sessions,
        "per_s": settings.sessions_per_s,
        "seed": settings.seed,
    }
    if settings.trace:
        of = {"trace": fingerprint(Path(settings.trace))}
    for system, deployment in _deployments(settings).items():
        fields = as_dict(deployment)
        hardware = {f"chip_{n}": str(v).replace(" ", "_") for n, v in fields["hardware"].items()}
        yield (
            system,
            key(
                NAME,
                code(SIMULATION),
                **of,
                **fields["served"],
                **hardware,
                **as_dict(settings.service),
                **as_dict(settings.policy),
                window=settings.window_tokens,
            ),
        )


def report(settings: Settings, rows: Sequence[Row]) -> Report:
    """What the rows say."""
    number = len(settings.systems)
    lines, refused = [], []
    for system, made, one in zip(settings.systems, rows[:number], rows[number:], strict=True):
        times = table(made)
        if isinstance(times, str) or "refused" in one["measured"]:
            refused.append((system, one["measured"]["refused"]))
            continue
        of = one["measured"]["met"]
        where = of["places"]
        lines.append(
            (
                system,
                times.system,
                f"{of['ttft_p50_s']:.3g}",
                f"{of['ttft_p99_s']:.3g}",
                figures(of["tokens_per_s_p50"]),
                figures(of["request_p50_s"]),
                f"{of['busy']:.0%}",
                " / ".join(f"{where[place]:,}" for place in PLACES),
                str(of["refused"]),
            )
        )
    what = settings.trace or f"{settings.sessions:,} sessions of {settings.workload}"
    calls = next(
        (r["measured"]["met"]["calls"] for r in rows[number:] if "met" in r["measured"]), 0
    )
    found = [
        Table(
            title=f"{what}, {calls:,} calls, on one instance of each system",
            columns=(
                "system", "chips", "TTFT p50 s", "TTFT p99 s", "tokens/s", "request p50 s", "busy",
                "prefix: " + " / ".join(PLACES), "refused",
            ),
            rows=tuple(lines),
            note="Request: the model's part. Prefix: where a call found its own: none before, in "
            "the memory it is used in, at the hosts, or gone. Of calls after a fifth of the time.",
        )
    ]  # fmt: skip
    if refused:
        found.append(
            Table(title="What cannot be served", columns=("system", "why"), rows=tuple(refused))
        )
    return Report(
        title=f"{settings.model.model} serves {what}",
        answer=(MODEL_NOTE,),
        figures=(),
        tables=tuple(found),
    )
