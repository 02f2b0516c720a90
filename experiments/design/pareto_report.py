"""Fronts as plots and tables: who gives a user's speed for the least, and which split is the best.

Chips whose software was fitted to published figures are drawn apart from those under ideal
software, which are upper bounds.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import emu
from emu.report import Figure, Panel, Report, Series, Table
from experiments.costs import Price, catalogued
from experiments.design.pareto_coding import Settings
from experiments.results import Row

Points = Mapping[str, Sequence[Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Found:
    """What a row says of a model on a chip."""

    model: str
    chip: str
    fitted: bool  # its software, to published figures
    front: Points
    fastest: Points
    most_per_chip: Points
    price: Price | None  # of one chip

    def per_joule(self, i: int) -> float | None:
        """Tokens, at a point of the front."""
        joules = self.front["energy_j_per_mtok"][i]
        return None if joules is None else 1e6 / joules

    def per_usd(self, i: int) -> float | None:
        """Tokens, at a point of the front."""
        if self.price is None:
            return None
        per_hour = 3600.0 * self.front["tokens_per_s_per_chip"][i]
        return float(per_hour / self.price.usd_per_hour)

    def per_chip(self, i: int) -> float:
        """Tokens a second, at a point of the front."""
        return float(self.front["tokens_per_s_per_chip"][i])


_AXES: tuple[tuple[str, Callable[[_Found, int], float | None]], ...] = (
    ("tokens/s per chip", _Found.per_chip),
    ("tokens per joule", _Found.per_joule),
    ("tokens per USD", _Found.per_usd),
)


def report(settings: Settings, rows: Sequence[Row]) -> Report:
    """See the module."""
    asked = list(zip(settings.asked, (row["measured"] for row in rows), strict=True))
    prices = {chip: _price(settings, chip) for _, chip in settings.asked}
    found = [
        _Found(
            model=served.model,
            chip=chip,
            fitted=chip in settings.stacks,
            price=prices[chip],
            **{name: of[name] for name in ("front", "fastest", "most_per_chip")},
        )
        for (served, chip), of in asked
        if "refused" not in of
    ]
    refused = [(s.model, c, of["refused"]) for (s, c), of in asked if "refused" in of]
    models = list(dict.fromkeys(served.model for served, _ in settings.asked))
    return Report(
        title="Tokens for a user, and per chip, joule and dollar",
        answer=(*_answers(models, found), *_terms(settings, prices)),
        figures=tuple(_figures(settings, models, found)),
        tables=(
            *(_wanted(settings, model, [f for f in found if f.model == model]) for model in models),
            _ends(found),
            *(_splits(model, [f for f in found if f.model == model]) for model in models),
            *([Table(title="Refused", columns=("model", "chip", "why"), rows=tuple(refused))]
              if refused else []),
        ),
    )  # fmt: skip


def _price(settings: Settings, name: str) -> Price | None:
    given = settings.usd_per_chip_hour.get(name)
    if given is not None:
        return Price(usd_per_hour=given, low=given, high=given, how="assumed")
    chip = emu.chip(name)
    power_w = 0.0 if chip.power_w is None else float(chip.power_w.value)
    return catalogued(chip, power_w, settings.costs)


def _answers(models: Sequence[str], found: Sequence[_Found]) -> Iterator[str]:
    for model in models:
        fitted = [f for f in found if f.model == model and f.fitted]
        if fitted:  # what is ideal is no speed of a product
            best = max(fitted, key=lambda f: f.front["tokens_per_s_per_user"][0])
            speed, split = best.front["tokens_per_s_per_user"][0], best.front["split"][0]
            yield (
                f"{model}: of chips with fitted software, fastest for one user on {best.chip}, "
                f"{speed:,.0f} tokens/s ({split})."
            )


def _terms(settings: Settings, prices: Mapping[str, Price | None]) -> Iterator[str]:
    yield (
        f"{settings.context:,} tokens of context; batches {', '.join(map(str, settings.batch))}. "
        "Splits: t tensor, p pipeline, d data, e expert."
    )
    ideal = sorted({chip for _, chip in settings.asked if chip not in settings.stacks})
    if ideal:
        yield (
            f"Under '{settings.stack}', an upper bound (their software was fitted to no published "
            f"figure): {', '.join(ideal)}."
        )
    known = [f"{c} {p.usd_per_hour:.3g} ({p.how})" for c, p in prices.items() if p is not None]
    yield f"USD an hour of a chip: {', '.join(known) or 'none known'}; the others have no price."
    yield "Joules are at the stated power of the chips alone."
    yield "This is a model; docs/fidelity.md says how far off it was where it could be checked."


def _figures(
    settings: Settings, models: Sequence[str], found: Sequence[_Found]
) -> Iterator[Figure]:
    for name, fitted, what in (
        ("pareto_coding", True, "software fitted to published figures"),
        ("pareto_ideal", False, f"under '{settings.stack}', an upper bound"),
    ):
        shown = [f for f in found if f.fitted == fitted]
        if shown:
            yield Figure(
                name=name,
                title=f"Fronts over batch and split at {settings.context:,} tokens: {what}",
                panels=tuple(
                    _panel(model, y_label, [f for f in shown if f.model == model], y)
                    for model in models
                    for y_label, y in _AXES
                ),
                columns=len(_AXES),
                note="Up and to the right is better. The catalogue's chips without a price are not "
                "in the right column.",
            )


def _panel(
    model: str, y_label: str, found: Sequence[_Found], y: Callable[[_Found, int], float | None]
) -> Panel:
    series = []
    for f in found:
        heights = [y(f, i) for i in range(len(f.front["batch"]))]
        if None not in heights:
            speeds = tuple(f.front["tokens_per_s_per_user"])
            series.append(Series(label=f.chip, x=speeds, y=tuple(heights)))  # type: ignore[arg-type]
    return Panel(
        title=model,
        x_label="tokens/s per user",
        y_label=y_label,
        series=tuple(series),
        log_x=True,
        log_y=True,
    )


def _wanted(settings: Settings, model: str, found: Sequence[_Found]) -> Table:
    """Which chip gives users a speed, and the most tokens beside it."""
    lines = []
    for speed in settings.users:
        cells = []
        for _, y in _AXES:
            able = [
                (height, f, i)
                for f in found
                if f.fitted
                for i, per_user in enumerate(f.front["tokens_per_s_per_user"])
                if per_user >= speed and (height := y(f, i)) is not None
            ]
            best = max(able, key=lambda one: one[0], default=None)
            cells.append("-" if best is None else _where(*best))
        lines.append((f"{speed:,g}", *cells))
    return Table(
        title=f"{model}: the most, where each user has at least so many tokens/s",
        columns=("tokens/s per user", *(name for name, _ in _AXES)),
        rows=tuple(lines),
        note="Of chips with fitted software; -: none reaches it, or none that does has a price.",
    )


def _where(height: float, f: _Found, i: int) -> str:
    figure = f"{height:,.3g}" if height < 1000 else f"{height:,.0f}"
    return f"{figure} on {f.chip} ({f.front['split'][i]}), batch {f.front['batch'][i]}"


def _ends(found: Sequence[_Found]) -> Table:
    lines = []
    for f in found:
        for i in sorted({0, len(f.front["batch"]) - 1}):
            joule, usd = f.per_joule(i), f.per_usd(i)
            lines.append(
                (
                    f.model,
                    f.chip if f.fitted else f"{f.chip} (ideal)",
                    f.front["split"][i],
                    str(f.front["batch"][i]),
                    f"{f.front['tokens_per_s_per_user'][i]:,.0f}",
                    f"{f.per_chip(i):,.1f}",
                    "-" if joule is None else f"{joule:,.3g}",
                    "-" if usd is None else f"{1e6 / usd:,.2f}",
                    f.front["binds"][i],
                )
            )
    return Table(
        title="Both ends of each front",
        columns=(
            "model", "chip", "split", "batch", "tokens/s per user", "tokens/s per chip",
            "tokens per joule", "USD per million tokens", "most of the step",
        ),
        rows=tuple(lines),
    )  # fmt: skip


def _splits(model: str, found: Sequence[_Found]) -> Table:
    """The best split of each batch on each chip."""
    lines = []
    for f in found:
        for i, batch in enumerate(f.fastest["batch"]):
            lines.append(
                (
                    f.chip if f.fitted else f"{f.chip} (ideal)",
                    str(batch),
                    f.fastest["split"][i],
                    f"{f.fastest['tokens_per_s_per_user'][i]:,.1f}",
                    f.fastest["binds"][i],
                    f.most_per_chip["split"][i],
                    f"{f.most_per_chip['tokens_per_s_per_chip'][i]:,.1f}",
                    f"{f.most_per_chip['tokens_per_s_per_user'][i]:,.1f}",
                )
            )
    return Table(
        title=f"{model}: the best split of each batch",
        columns=(
            "chip", "batch", "fastest for a user", "tokens/s per user", "most of the step",
            "most per chip", "tokens/s per chip", "and per user",
        ),
        rows=tuple(lines),
    )  # fmt: skip
