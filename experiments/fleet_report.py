"""What the rows of `fleet` say: capacities, plans, the curve, and who serves which price tier."""

import dataclasses
import functools
import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from emu.report import Figure, Panel, Report, Series, Table
from experiments.assumptions import elasticity_table, number_table
from experiments.costs import price
from experiments.fleet_plan import Demand, Pair, Plan, plan
from experiments.seconds_saved_report import MODEL_NOTE
from experiments.step_times import StepTimes
from experiments.wording import figures
from experiments.workloads.sampling import sample
from experiments.workloads.workload import workload

if TYPE_CHECKING:
    from experiments.fleet import Class, Settings

Measured = Mapping[Pair, Mapping[str, Any]]
Plans = Mapping[float, Plan | None]
_SHARES = tuple(n / 20 for n in range(21))
_ASKED_SHARE = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Session:
    """The mean session of a class."""

    calls: float
    requests: float
    cached_tokens: float
    new_tokens: float
    output_tokens: float


@functools.lru_cache(maxsize=32)
def session(of_class: "Class", window: int, seed: int) -> Session:
    """As it is drawn."""
    of = workload(of_class.workload)
    traffic = sample(of, sessions=of_class.simulated, per_s=1.0, seed=seed).within(window)
    number = of_class.simulated
    return Session(
        calls=len(traffic) / number,
        requests=(int(traffic.request[-1]) + 1) / number,
        cached_tokens=float(traffic.prefix_tokens.sum()) / number,
        new_tokens=float(traffic.append_tokens.sum()) / number,
        output_tokens=float(traffic.output_tokens.sum()) / number,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fleet:
    """The question with all that is known."""

    settings: "Settings"
    times: Mapping[str, StepTimes]
    found: Measured

    @property
    def demands(self) -> dict[str, Demand]:
        """Of each class."""
        return {
            name: Demand(sessions_per_s=of.sessions_per_s, calls_per_session=self.of(name).calls)
            for name, of in self.settings.classes.items()
        }

    def of(self, name: str) -> Session:
        """The mean session of a class."""
        return session(self.settings.classes[name], self.settings.window_tokens, self.settings.seed)

    def usd_per_hour(self, system: str) -> float:
        """Of an instance."""
        hardware = self.settings.systems[system]
        return price(hardware, self.times[system], self.settings.costs).usd_per_hour

    def planned(self, share: float | None, *, proven: bool = False) -> Plan | None:
        """The cheapest plan with this share of calls on the fast systems.

        Nobody moves traffic to a machine that is slower than those that it is on: fast systems for
        which that is so take no part where a share is asked for. proven: without systems whose
        software nobody has published.
        """
        able = {pair: made for pair, made in self.found.items() if made["sessions_per_s"]}
        if proven:
            able = {p: made for p, made in able.items() if p[1] not in self.settings.unproven}
        if share:
            slow = self.planned(0.0, proven=proven)
            if slow is None:
                return None
            able = {p: made for p, made in able.items() if not self._is_slower(p, slow)}
            if {name for name, _ in able} < set(self.settings.classes):
                return None
        return plan(
            self.demands,
            {pair: made["sessions_per_s"] for pair, made in able.items()},
            {system: self.usd_per_hour(system) for system in self.times},
            fast=self.settings.fast,
            share=share,
        )

    def _is_slower(self, pair: Pair, slow: Plan) -> bool:
        """Whether it is a fast system, and slower than what serves the class in this plan."""
        name, system = pair
        mean = float(self.found[pair]["at"]["request_mean_s"])
        return system in self.settings.fast and mean >= self.request_s(slow, name)

    def request_s(self, made: Plan, name: str) -> float:
        """Seconds of the model's part of the mean request of a class, over a plan's systems."""
        of = {pair: y for pair, y in made.sessions_per_s.items() if pair[0] == name}
        total = sum(y * self.found[pair]["at"]["request_mean_s"] for pair, y in of.items())
        return float(total / sum(of.values()))

    def saved_s(self, made: Plan, slow: Plan) -> float:
        """Seconds that a request which is moved to a fast system is shorter, on average."""
        saved = moved = 0.0
        for (name, system), y in made.sessions_per_s.items():
            if system in self.settings.fast:
                requests = y * self.of(name).requests
                mean = self.found[name, system]["at"]["request_mean_s"]
                saved += requests * (self.request_s(slow, name) - mean)
                moved += requests
        return saved / moved if moved else 0.0


def report(settings: "Settings", times: Mapping[str, StepTimes], found: Measured) -> Report:
    """See the module."""
    fleet = Fleet(settings=settings, times=times, found=found)
    but = f"HBM machines but {', '.join(settings.unproven)}"
    plans = {
        "all HBM machines": {share: fleet.planned(share) for share in _SHARES},
        but: {share: fleet.planned(share, proven=True) for share in _SHARES},
    }
    return Report(
        title="Which share of the inference should go to machines that run from SRAM?",
        answer=tuple(_answer(fleet, plans)),
        figures=(_curve(fleet, plans),),
        tables=(
            _capacities(fleet),
            *(_plans(fleet, name, of) for name, of in plans.items()),
            *(_shares(fleet, name, of) for name, of in plans.items()),
            _tiers(fleet),
            _prices(fleet),
            *_elasticities(fleet),
            number_table(times),
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

    return (elasticity_table(fleet.settings, answer, what, only=("systems", "costs", "classes")),)


def _premium(fleet: Fleet) -> float | None:
    slow, some = fleet.planned(0.0, proven=True), fleet.planned(_ASKED_SHARE, proven=True)
    return some.usd_per_hour - slow.usd_per_hour if slow and some else None


def _answer(fleet: Fleet, plans: Mapping[str, Plans]) -> list[str]:
    lines = []
    for name, of in plans.items():
        slow, some = of[0.0], of[_ASKED_SHARE]
        if slow is None or some is None:
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
            f"the fleet {_percent(some, slow)} dearer, {figures(some.usd_per_hour)} dollars an "
            f"hour against {figures(slow.usd_per_hour)}; a request that is moved is "
            f"{_seconds(fleet.saved_s(some, slow))}."
        )
    return [*lines, MODEL_NOTE + " Prices that nobody publishes are assumed; see the tables."]


def _seconds(saved: float) -> str:
    word = "shorter" if saved >= 0 else "LONGER"
    return f"{figures(abs(saved))} s {word} on average"


def _percent(made: Plan, slow: Plan) -> str:
    return f"{100 * (made.usd_per_hour / slow.usd_per_hour - 1):.1f} %"


def _capacities(fleet: Fleet) -> Table:
    rows = []
    for (name, system), made in fleet.found.items():
        if not made["sessions_per_s"]:
            rows.append((name, system, "0", *["-"] * 7, "; ".join(made["missed"])))
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
                f"{at['ttft_p99_s']:.3g}",
                figures(at["tokens_per_s_p50"]),
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
            "class", "system", "sessions/h", "TTFT p99 s", "tokens/s", "request s", "$/session",
            "$/M output", "kJ/session", "busy", "why not",
        ),
        rows=tuple(rows),
        note="tokens/s: of one user, median call. Request: the model's part of the mean one. "
        "Energy: stated power of all chips, at all times.",
    )  # fmt: skip


def _plans(fleet: Fleet, beside: str, plans: Plans) -> Table:
    rows = []
    for label, made in (
        ("none on fast systems", plans[0.0]),
        (f"{_ASKED_SHARE:.0%} on fast systems", plans[_ASKED_SHARE]),
        ("all on fast systems", plans[1.0]),
    ):
        if made is None:
            rows.append((label, "-", "-", "-", "cannot be done"))
            continue
        for (name, system), count in made.instances.items():
            share = made.sessions_per_s.get((name, system), 0.0)
            share /= fleet.settings.classes[name].sessions_per_s
            chips = count * fleet.times[system].chips
            rows.append((label, name, system, f"{count} ({chips} chips)", f"{share:.0%}"))
    return Table(
        title=f"Which class goes where, and on how many instances: {beside}",
        columns=("plan", "class", "system", "instances", "share of the class"),
        rows=tuple(rows),
    )


def _shares(fleet: Fleet, beside: str, plans: Plans) -> Table:
    slow = plans[0.0]
    rows = []
    for share, made in plans.items():
        if made is None or slow is None or round(20 * share) % 2:
            continue
        power = sum(n * fleet.times[system].power_w for (_, system), n in made.instances.items())
        rows.append(
            (
                f"{share:.0%}",
                figures(made.usd_per_hour),
                _percent(made, slow),
                figures(power / 1e3),
                f"{fleet.saved_s(made, slow):.2f}",
            )
        )
    return Table(
        title=f"Share of calls on fast systems, premium, and seconds saved: {beside}",
        columns=("share", "$/hour", "premium", "kW", "s saved of a moved request"),
        rows=tuple(rows),
        note="Fast systems: " + ", ".join(fleet.settings.fast) + ". Each line is the cheapest plan "
        "with this share; which class is moved follows from that alone.",
    )


def _curve(fleet: Fleet, plans: Mapping[str, Plans]) -> Figure:
    premiums, gains = [], []
    for name, of in plans.items():
        slow = of[0.0]
        if slow is None:
            continue
        done = {share: made for share, made in of.items() if made is not None}
        shares = tuple(100 * share for share in done)
        costs = tuple(made.usd_per_hour / slow.usd_per_hour for made in done.values())
        premiums.append(Series(label=name, x=shares, y=costs))
        moved = {share: made for share, made in done.items() if share}
        gains.append(
            Series(
                label=name,
                x=tuple(100 * share for share in moved),
                y=tuple(fleet.saved_s(made, slow) for made in moved.values()),
                style="points",  # the next plan may move another class
            )
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
                series=tuple(premiums),
                log_y=True,
            ),
            Panel(
                title="What users gain",
                x_label="share of model calls moved, %",
                y_label="seconds saved of a moved request",
                series=tuple(gains),
            ),
        ),
        note="Each point is the cheapest plan with this share, where there is one; traffic is not "
        "moved to machines that are slower. Seconds: the model's part of the mean request, "
        "queueing included.",
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
        note="Of an instance at its capacity: above 1 is a profit; -: it does not serve the class, "
        "or not at the tier's speed. Only tiers of the same model compare like with like; the "
        "others say what a price would bear. Tokens in the cache are charged "
        f"{fleet.settings.costs.cached_price:g} of the input price. Sources: "
        + "; ".join(f"{name}: {source}" for name, source in file["sources"].items())
        + ".",
    )


def _ratio(fleet: Fleet, tier: Mapping[str, Any], name: str, system: str) -> str:
    made = fleet.found[name, system]
    per_s = made["sessions_per_s"]
    if not per_s or made["at"]["tokens_per_s_p50"] < tier.get("tokens_per_s", 0):
        return "-"
    of = fleet.of(name)
    charged = of.cached_tokens * fleet.settings.costs.cached_price + of.new_tokens
    usd = 1e-6 * (tier["input_usd"] * charged + tier["output_usd"] * of.output_tokens)
    return f"{usd * per_s * 3600 / fleet.usd_per_hour(system):.2f}"


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
