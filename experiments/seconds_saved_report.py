"""What the rows of `seconds_saved` say, as a report."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from emu.report import Bars, Figure, Report, Table
from experiments.assumptions import effects, effects_table, number_table
from experiments.session_time import LLM, PARTS, Service, Sped, by_request, parts, sped_up, sum_of
from experiments.step_times import StepTimes
from experiments.wording import figures
from experiments.workloads.traffic import Floats, Traffic
from experiments.workloads.workload import workload

if TYPE_CHECKING:
    from experiments.seconds_saved import Settings

Sampled = Callable[["Settings"], Traffic]
Tables = Mapping[tuple[str, str], StepTimes]
_NEAR = (0.4, 0.6)  # requests between these shares of all are called typical
MODEL_NOTE = (
    "This is a model; docs/fidelity.md says how far off it was where it could be checked. Ranges "
    "are of 80 %, from the numbers of chips and stacks that have one and from the stack's errors "
    "on cases left out of its fit; assumptions of this page are not in them."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """Requests on one system: seconds of each, by part."""

    times: StepTimes
    by_part: dict[str, Floats]
    ttft_s: Floats  # of each call
    tokens_per_s: Floats

    @property
    def total(self) -> Floats:
        """Of each request."""
        return sum_of(self.by_part, PARTS)

    @property
    def llm(self) -> Floats:
        """Of each request, without tools."""
        return sum_of(self.by_part, LLM)

    def range_s(self, seconds: Callable[[Floats], float]) -> tuple[float, float]:
        """A figure of the totals at the two ends of the range of steps."""
        computed = self.by_part["prefill"] + self.by_part["decode"]
        low, high = self.times.low - 1, self.times.high - 1
        return seconds(self.total + low * computed), seconds(self.total + high * computed)


def writing(settings: "Settings") -> Service:
    """How calls of the workload are served."""
    return settings.service.writing(workload(settings.workload).assuming(settings.assumed))


def asked(traffic: Traffic, times: StepTimes, settings: "Settings") -> Request:
    """The traffic's requests on one system."""
    of_calls = parts(traffic, times, writing(settings))
    ttft = of_calls["network"] + of_calls["prefix load"] + of_calls["prefill"]
    several = traffic.output_tokens > 1
    each = of_calls["decode"][several] / (traffic.output_tokens[several] - 1)
    return Request(
        times=times,
        by_part={name: by_request(traffic, seconds) for name, seconds in of_calls.items()},
        ttft_s=ttft,
        tokens_per_s=1 / each,
    )


def report(
    settings: "Settings", sampled: Sampled, tables: Tables, refused: Mapping[tuple[str, str], str]
) -> Report:
    """See the module."""
    traffic = sampled(settings)
    found = {of: asked(traffic, times, settings) for of, times in tables.items()}
    return Report(
        title="How many seconds would faster hardware save a coding agent's user?",
        answer=tuple(_answer(settings, found)),
        figures=(
            _figure(settings, found, "typical", "A typical request: where its seconds go"),
            _figure(settings, found, "mean", "The mean request: where its seconds go"),
        ),
        tables=(
            _requests(settings, traffic, found),
            _amdahl(settings, traffic, found),
            *_refused(refused),
            _tables_checked(tables),
            effects_table(
                effects(settings, lambda changed: _saved(changed, sampled(changed), tables)),
                "seconds that the mean request saves at most",
            ),
            number_table({f"{model}, {name}": t for (model, name), t in tables.items()}),
        ),
    )


def _saved(settings: "Settings", traffic: Traffic, tables: Tables) -> float:
    """Mean seconds of a request of the first model that the fastest system saves."""
    model = next(iter(settings.models.values())).model
    means = {
        name: float(asked(traffic, tables[model, name].with_hosts(of), settings).total.mean())
        for name, of in settings.systems.items()
        if (model, name) in tables
    }
    return means[settings.baseline] - min(means.values())


def _answer(settings: "Settings", found: Mapping[tuple[str, str], Request]) -> list[str]:
    lines = []
    for model in (served.model for served in settings.models.values()):
        base = found[model, settings.baseline]
        able = [name for name in settings.systems if (model, name) in found]
        medians = {name: float(np.median(found[model, name].total)) for name in able}
        fastest = min(able, key=medians.__getitem__)
        best = found[model, fastest]
        low, high = best.range_s(lambda total: float(np.median(total)))
        lines.append(
            f"{model}: the median request takes {figures(float(np.median(base.total)))} s on "
            f"{settings.baseline} and {figures(float(np.median(best.total)))} s "
            f"({figures(low)} to {figures(high)}) on {fastest}, the fastest; the mean one, which "
            f"tools dominate, {figures(base.total.mean())} and {figures(best.total.mean())} s."
        )
    return [*lines, *_drafting(settings), MODEL_NOTE]


def _drafting(settings: "Settings") -> tuple[str, ...]:
    of = writing(settings)
    if not of.drafted:
        return ()
    return (
        f"Every system drafts {of.drafted} tokens a step, {of.draft_share:g} of a step each, and "
        f"keeps {of.tokens_per_step:.3g}, its own among them.",
    )


def _requests(
    settings: "Settings", traffic: Traffic, found: Mapping[tuple[str, str], Request]
) -> Table:
    rows = []
    observed = by_request(traffic, traffic.observed_llm_s)
    whole = observed + by_request(traffic, traffic.tool_s)
    of = workload(settings.workload)
    rows.append(
        (
            "as observed",
            "",
            "-",
            "-",
            figures(of.figure("tokens_per_s")),
            figures(float(observed.mean())),
            figures(float(np.median(whole))),
            "-",
            figures(float(whole.mean())),
            "-",
        )
    )
    for (model, name), request in found.items():
        base = found[model, settings.baseline].total
        low, high = request.range_s(lambda total: float(np.median(total)))
        rows.append(
            (
                model,
                name,
                request.times.system,
                figures(float(np.median(request.ttft_s))),
                figures(float(np.median(request.tokens_per_s))),
                figures(float(request.llm.mean())),
                figures(float(np.median(request.total))),
                f"{figures(low)} to {figures(high)}",
                figures(float(request.total.mean())),
                figures(float(base.mean() - request.total.mean())),
            )
        )
    return Table(
        title="Requests of a coding agent, seconds",
        columns=(
            "model",
            "system",
            "chips",
            "TTFT p50",
            "tokens/s",
            "LLM mean",
            "median",
            "80 % range",
            "mean",
            "mean saved",
        ),
        rows=tuple(rows),
        note=f"{len(traffic):,} calls in {int(traffic.request[-1]) + 1:,} requests; "
        f"{settings.service.together} sequences decode together. TTFT: network, prefix load and "
        "prefill of a call, without waiting for admission. tokens/s: of one user, median call. "
        "Mean saved: against " + settings.baseline + ". As observed: the published times, drawn "
        "from their percentiles.",
    )


def _amdahl(
    settings: "Settings", traffic: Traffic, found: Mapping[tuple[str, str], Request]
) -> Table:
    of = workload(settings.workload)
    rows = []
    seconds, part = of.figure("request_p50_s"), of.figure("request_llm_p50_s")
    llm = by_request(traffic, traffic.observed_llm_s)
    whole = llm + by_request(traffic, traffic.tool_s)
    share = of.figure("llm_share")
    rows.append(
        (
            *("published", "", "-", "-", "-"),
            *(f"{1 / (1 - share):.2f}", "-", f"{seconds / (seconds - part):.2f}"),
        )
    )
    rows.append(("as observed, drawn", "", "-", "-", "-", *_sped(sped_up(whole, llm))))
    for (model, name), request in found.items():
        decode = sped_up(request.total, request.by_part["decode"])
        rows.append((model, name, *_sped(decode), *_sped(sped_up(request.total, request.llm))))
    return Table(
        title="How many times as fast a request is when a part of it takes no time",
        columns=(
            "model",
            "system",
            "decode: mean",
            "median",
            "by medians",
            "all LLM: mean",
            "median",
            "by medians",
        ),
        rows=tuple(rows),
        note="Median: of requests with and without the part; tools of the median request take "
        "0.3 s. By medians: the median of all, over what is left when the median of the part is "
        "taken from it, which is all that published medians allow.",
    )


def _sped(of: Sped) -> tuple[str, str, str]:
    return (f"{of.mean:.2f}", figures(of.median), f"{of.medians:.2f}")


def _refused(refused: Mapping[tuple[str, str], str]) -> tuple[Table, ...]:
    if not refused:
        return ()
    rows = tuple((model, name, why) for (model, name), why in refused.items())
    return (Table(title="What cannot be served", columns=("model", "system", "why"), rows=rows),)


def _tables_checked(tables: Tables) -> Table:
    return Table(
        title="Step times: ranges, and how far off interpolation is",
        columns=("model", "system", "chips", "low", "high", "worst error", "prompt chunk"),
        rows=tuple(
            (
                model,
                name,
                times.system,
                f"{times.low:.2f}",
                f"{times.high:.2f}",
                f"{100 * times.worst:.2g} %",
                str(times.chunk),
            )
            for (model, name), times in tables.items()
        ),
        note="Low and high: the 80 % range of a typical step, over the step. Worst error: of the "
        "table against direct predictions between its entries.",
    )


def _figure(
    settings: "Settings", found: Mapping[tuple[str, str], Request], which: str, title: str
) -> Figure:
    panels = []
    for model in (served.model for served in settings.models.values()):
        shown = {n: found[model, n] for n in settings.systems if (model, n) in found}
        picked = {name: _picked(request, which) for name, request in shown.items()}
        ends = [
            (
                sum(made.values()) + (r.times.low - 1) * (made["prefill"] + made["decode"]),
                sum(made.values()) + (r.times.high - 1) * (made["prefill"] + made["decode"]),
            )
            for r, made in zip(shown.values(), picked.values(), strict=True)
        ]
        panels.append(
            Bars(
                title=model,
                x_label="seconds",
                labels=tuple(shown),
                parts={part: tuple(made[part] for made in picked.values()) for part in PARTS},
                low=tuple(low for low, _ in ends),
                high=tuple(high for _, high in ends),
            )
        )
    note = (
        "Mean of the requests between the 40th and the 60th percentile of total time."
        if which == "typical"
        else "Mean of all requests; a few long tools take most of it."
    )
    return Figure(
        name=f"waterfall_{which}",
        title=title,
        panels=tuple(panels),
        columns=len(panels),
        note=f"{note} Lines: 80 % ranges of what is computed.",
    )


def _picked(request: Request, which: str) -> dict[str, float]:
    total = request.total
    chosen = np.ones(len(total), bool)
    if which == "typical":
        low, high = np.quantile(total, _NEAR)
        chosen = (total >= low) & (total <= high)
    return {name: float(seconds[chosen].mean()) for name, seconds in request.by_part.items()}
