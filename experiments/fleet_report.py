"""What the rows of `fleet` say: capacities, plans, the curve, and who serves which price tier."""

import dataclasses
import math
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from emu.report import Figure, Panel, Report, Series, Table
from experiments.assumptions import Effects, Path, effects, effects_table, number_table
from experiments.costs import price
from experiments.fleet_known import Fleet, Measured
from experiments.fleet_ranges import Curve, Spread, curve
from experiments.seconds_saved_report import MODEL_NOTE
from experiments.wording import figures

if TYPE_CHECKING:
    from experiments.fleet import Settings

Curves = Mapping[str, Curve]
_SHARES = tuple(n / 10 for n in range(11))
_ASKED_SHARE = 0.1
_RANGE_NOTE = (
    "Ranges: each stack's step times at the low and the high end of their 80 % range, simulated "
    "and planned again, added in quadrature; prices, traffic, promises and the workloads' "
    "assumptions stay."
)


def report(fleet: Fleet, found: Sequence[Mapping[str, Any]]) -> Report:
    """See the module; `found`: what assumptions do to each class, as `fleet` has simulated it."""
    but = f"HBM machines but {', '.join(fleet.settings.unproven)}"
    curves = {"all HBM machines": curve(fleet, _SHARES, proven=False)}
    if fleet.settings.unproven:
        curves[but] = curve(fleet, _SHARES, proven=True)
    return Report(
        title="Which share of the inference should go to machines that run from SRAM?",
        answer=tuple(_answer(fleet, curves)),
        figures=(_curve(curves),),
        tables=(
            _capacities(fleet),
            *(_plans(name, of) for name, of in curves.items()),
            *(_shares(name, of) for name, of in curves.items()),
            _tiers(fleet),
            _prices(fleet),
            *_elasticities(fleet),
            *(table for of in found for table in _simulated(of)),
            number_table(fleet.times),
        ),
    )


def _elasticities(fleet: Fleet) -> tuple[Table, ...]:
    """Of what the share costs beside machines whose software is known, where there is a plan."""
    if _premium(fleet) is None:
        return ()
    what = f"premium of {_ASKED_SHARE:.0%} on fast systems, in dollars an hour"
    if fleet.settings.unproven:
        what += f" (without {', '.join(fleet.settings.unproven)})"

    def answer(changed: "Settings") -> float:
        premium = _premium(dataclasses.replace(fleet, settings=changed))
        return 0.0 if premium is None else premium

    def counts(path: Path) -> bool:  # without simulating again, which `_simulated` has the rest of
        return path[0] in ("systems", "costs", "classes") and not (
            "level" in path or path[-1] == "host_bytes_per_s_per_chip"
        )

    # Instances are whole: over less, one more or less of them would be all that is seen.
    return (effects_table(effects(fleet.settings, answer, counts, step=0.1), what),)


def _simulated(of: Mapping[str, Any]) -> tuple[Table, ...]:
    name, system = of["class"], of["system"]
    felt = f"model's part of the mean request of {name}, in seconds, on {system} at half its load"
    taken = f"sessions of {name} a second that an instance of {system} takes on"
    tables = [effects_table(Effects(**of["request_s"]), felt)]
    if of["taken_on"]["slopes"]:
        tables.append(effects_table(Effects(**of["taken_on"]), taken))
    return tuple(tables)


def _premium(fleet: Fleet) -> float | None:
    plans = fleet.plans([_ASKED_SHARE], proven=True)
    slow, some = plans[0.0], plans[_ASKED_SHARE]
    return some.usd_per_hour - slow.usd_per_hour if slow and some else None


def _answer(fleet: Fleet, curves: Curves) -> list[str]:
    lines = []
    for name, of in curves.items():
        slow, some = of.plans[0.0], of.plans[_ASKED_SHARE]
        costs, seconds = of.over_none_range(_ASKED_SHARE), of.saved_range_s(_ASKED_SHARE)
        if slow is None or some is None or costs is None or seconds is None:
            lines.append(
                f"Beside {name}: nothing is gained. No plan puts {_ASKED_SHARE:.0%} of the calls "
                "on fast systems that are not slower than what serves them without."
            )
            continue
        moved = ", ".join(
            f"{kind} on {system}"
            for kind, system in some.sessions_per_s
            if system in fleet.settings.fast
        )
        lines.append(
            f"Beside {name}: {_ASKED_SHARE:.0%} of the model calls on fast systems ({moved}) make "
            f"the fleet {figures(some.usd_per_hour / slow.usd_per_hour)} times as dear "
            f"({figures(costs.low)} to {figures(costs.high)}), {figures(some.usd_per_hour)} "
            f"dollars an hour against {figures(slow.usd_per_hour)}; a request that is moved is "
            f"{_seconds(fleet.saved_s(some, slow))} ({seconds.low:.2f} to {seconds.high:.2f})"
            f"{_unless(costs.without)}."
        )
    return [
        *lines,
        *_filled(fleet, curves),
        MODEL_NOTE,
        f"{_RANGE_NOTE} Prices that nobody publishes are assumed; see the tables.",
    ]


def _filled(fleet: Fleet, curves: Curves) -> tuple[str, ...]:
    """What users of the asked share get for instances being full."""
    plans = [plan for of in curves.values() if (plan := of.plans[_ASKED_SHARE])]
    pairs = dict.fromkeys(
        p for made in plans for p in made.instances if p[1] in fleet.settings.fast
    )
    if not pairs:
        return ()
    each = "; ".join(
        f"{name} gets {figures(found['at']['tokens_per_s_p50'])} tokens a second on {system}, and "
        f"{figures(found['floor']['tokens_per_s_p50'])} when it is alone there"
        for name, system in pairs
        for found in [fleet.found[name, system]]
    )
    return (
        f"All machines, fast ones too, are as full as the promises allow: {each}. Promise more "
        "(--config.classes.….level.tokens_per_s) to have them emptier, faster and dearer.",
    )


def _unless(without: tuple[str, ...]) -> str:
    return f"; there is no such plan with {', or with '.join(without)}" if without else ""


def _seconds(saved: float) -> str:
    word = "shorter" if saved >= 0 else "LONGER"
    return f"{figures(abs(saved))} s {word} on average"


def _capacities(fleet: Fleet) -> Table:
    rows = []
    for (name, system), made in fleet.found.items():
        ends = [fleet.ends[end][name, system]["sessions_per_s"] * 3600 for end in ("high", "low")]
        spread = f"{figures(ends[0])} to {figures(ends[1])}"
        if not made["sessions_per_s"]:
            rows.append((name, system, "0", spread, *["-"] * 8, "; ".join(made["missed"])))
            continue
        per_s, at = made["sessions_per_s"], made["at"]
        usd = fleet.usd_per_hour(system) / 3600 / per_s
        joules = fleet.times[system].power_w / per_s
        output = fleet.of(name).output_tokens
        rows.append(
            (
                name,
                system,
                figures(per_s * 3600),
                spread,
                f"{at['ttft_p99_s']:.3g}",
                figures(at["tokens_per_s_p50"]),
                figures(made["floor"]["tokens_per_s_p50"]),
                figures(at["request_mean_s"]),
                f"{usd:.3g}",
                f"{usd / output * 1e6:.3g}",
                f"{joules / 1e3:.3g}",
                f"{at['busy']:.0%}",
                "",
            )
        )
    return Table(
        title="What one instance takes on, keeping what is promised",
        columns=(
            "class", "system", "sessions/h", "80 % range", "TTFT p99 s", "tokens/s", "alone",
            "request s", "$/session", "$/M output", "kJ/session", "busy", "why not",
        ),
        rows=tuple(rows),
        note="Range: simulated again with step times at the slow and at the fast end of theirs; "
        "0: what is promised is not kept there. $ and J of a session fall as its number rises. "
        "tokens/s: of one user, median call; alone: on an idle instance. Request: the model's part "
        "of the mean one. Energy: stated power of all chips, at all times.",
    )  # fmt: skip


def _plans(beside: str, of: Curve) -> Table:
    fleet, rows = of.fleet, []
    for label, share in (
        ("none on fast systems", 0.0),
        (f"{_ASKED_SHARE:.0%} on fast systems", _ASKED_SHARE),
        ("all on fast systems", 1.0),
    ):
        made = of.plans[share]
        if made is None:
            rows.append((label, "-", "-", "-", "-", "-", "cannot be done"))
            continue
        for (name, system), (count, fewest, most) in of.instances(share).items():
            part = made.sessions_per_s.get((name, system), 0.0)
            part /= fleet.settings.classes[name].sessions_per_s
            chips = count * fleet.times[system].chips
            ends = f"{fewest:,} to {most:,}"
            rows.append((label, name, system, f"{count:,}", ends, f"{chips:,}", f"{part:.0%}"))
    return Table(
        title=f"Which class goes where, and on how many instances: {beside}",
        columns=(
            "plan", "class", "system", "instances", "at the ends", "chips", "share of the class",
        ),
        rows=tuple(rows),
        note="At the ends: the fewest and the most where one stack's step times are at either end "
        "of their 80 % range; 0 instances: only there does the system take part.",
    )  # fmt: skip


def _shares(beside: str, of: Curve) -> Table:
    rows = []
    for share, made in of.plans.items():
        costs, seconds = of.over_none_range(share), of.saved_range_s(share)
        if made is None or costs is None or seconds is None:
            continue
        power = sum(n * of.fleet.times[system].power_w for (_, system), n in made.instances.items())
        rows.append(
            (
                f"{share:.0%}",
                figures(made.usd_per_hour),
                figures(of.over_none(share) or 0.0),
                f"{figures(costs.low)} to {figures(costs.high)}",
                figures(power / 1e3),
                f"{of.saved_s(share):.2f}",
                f"{seconds.low:.2f} to {seconds.high:.2f}",
                ", ".join(costs.without),
            )
        )
    return Table(
        title=f"Share of calls on fast systems, what it costs, and seconds saved: {beside}",
        columns=(
            "share", "$/hour", "over none", "80 % range", "kW", "s saved of a moved request",
            "80 % range", "no plan with",
        ),
        rows=tuple(rows),
        note="Fast systems: " + ", ".join(of.fleet.settings.fast) + ". Over none: the fleet's "
        "cost, over that without calls on fast systems. Each line is the cheapest plan with this "
        f"share; which class is moved follows from that alone. {_RANGE_NOTE}",
    )  # fmt: skip


def _curve(curves: Curves) -> Figure:
    costs = tuple(
        _series(name, [(s, y, of.over_none_range(s)) for s in _SHARES if (y := of.over_none(s))])
        for name, of in curves.items()
    )
    gains = tuple(
        _series(name, [(s, y, of.saved_range_s(s)) for s in _SHARES[1:] if (y := of.saved_s(s))])
        for name, of in curves.items()
    )
    return Figure(
        name="share",
        title="Moving traffic to machines that run from SRAM",
        columns=2,
        panels=(
            Panel(
                title="What it costs",
                x_label="share of model calls moved, %",
                y_label="cost of the fleet, over the one without",
                series=tuple(dataclasses.replace(of, band=True) for of in costs),
                log_y=True,
            ),
            Panel(
                title="What users gain",
                x_label="share of model calls moved, %",
                y_label="seconds saved of a moved request",
                # Points: the next plan may move another class.
                series=tuple(dataclasses.replace(of, style="points") for of in gains),
            ),
        ),
        note="Each point is the cheapest plan with this share, where there is one; traffic is not "
        "moved to machines that are slower. No band and no whisker: with step times at an end of "
        "their range there is no such plan (see the table). Seconds: the model's part of the mean "
        f"request, queueing included. {_RANGE_NOTE}",
    )


def _series(name: str, points: list[tuple[float, float, Spread | None]]) -> Series:
    # An end without such a plan is no end: nothing is drawn that could be taken for one.
    spreads = [
        dataclasses.replace(spread, low=math.nan, high=math.nan) if spread.without else spread
        for *_, spread in points
        if spread
    ]
    return Series(
        label=name,
        x=tuple(100 * share for share, *_ in points),
        y=tuple(y for _, y, _ in points),
        low=tuple(spread.low for spread in spreads),
        high=tuple(spread.high for spread in spreads),
    )


def _tiers(fleet: Fleet) -> Table:
    """Revenue of an instance at its capacity over its cost, at published prices."""
    text = resources.files("experiments.workloads").joinpath("api_prices.toml")
    file = tomllib.loads(text.read_text(encoding="utf-8"))
    rows = []
    for tier in file["tier"]:
        for name in fleet.settings.classes:
            ratios = (_ratio(fleet, tier, name, system) for system in fleet.times)
            of = f"{tier['input_usd']:g} / {tier['output_usd']:g}"
            rows.append((tier["name"], of, name, *ratios))
    return Table(
        title=f"Revenue over cost at the prices of others, with {fleet.settings.model.model}",
        columns=("tier", "$/M in / out", "class", *fleet.times),
        rows=tuple(rows),
        note="Of an instance at its capacity, with the 80 % range of its step times: above 1 is a "
        "profit; - and 0: it does not serve the class, or not at the tier's speed. Only tiers of "
        "the same model compare like with like; the others say what a price would bear. Tokens in "
        f"the cache are charged {fleet.settings.costs.cached_price:g} of the input price. Sources: "
        + "; ".join(f"{name}: {source}" for name, source in file["sources"].items())
        + ".",
    )


def _ratio(fleet: Fleet, tier: Mapping[str, Any], name: str, system: str) -> str:
    def ratio(found: Measured) -> float:
        made = found[name, system]
        per_s = made["sessions_per_s"]
        if not per_s or made["at"]["tokens_per_s_p50"] < tier.get("tokens_per_s", 0):
            return 0.0
        of = fleet.of(name)
        charged = of.cached_tokens * fleet.settings.costs.cached_price + of.new_tokens
        usd = 1e-6 * (tier["input_usd"] * charged + tier["output_usd"] * of.output_tokens)
        return float(usd * per_s * 3600 / fleet.usd_per_hour(system))

    if not ratio(fleet.found):
        return "-"
    low, high = sorted(ratio(fleet.ends[end]) for end in ("high", "low"))
    return f"{ratio(fleet.found):.2f} ({low:.2f} to {high:.2f})"


def _prices(fleet: Fleet) -> Table:
    rows = []
    for system, times in fleet.times.items():
        of = price(fleet.settings.systems[system], times, fleet.settings.costs)
        rows.append(
            (
                system,
                times.system,
                figures(of.usd_per_hour),
                f"{figures(of.low)} to {figures(of.high)}",
                of.how,
                figures(times.power_w / 1e3),
                f"{np.floor(times.room.free_bytes / times.room.needed_bytes(1e5)):.0f}",
            )
        )
    return Table(
        title="What an instance costs",
        columns=("system", "chips", "$/hour", "range", "how", "kW", "caches of 100k tokens"),
        rows=tuple(rows),
    )
