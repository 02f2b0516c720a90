"""A kind of traffic as data: what its calls are like, by percentiles with sources.

The files beside this one (`chat.toml`, …) hold nothing but data. A percentile is a pair [value,
source], where the source is a key of the file's [sources]; `assumed` is ours. Numbers stand alone
alike.
"""

import dataclasses
import difflib
import functools
import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any

from experiments.errors import ExperimentError
from experiments.workloads.quantiles import Percentile, Quantiles

ASSUMED = "assumed"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """One number with its source."""

    value: float
    kind: str
    source: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload:
    """One file; which quantiles and figures it must have depends on how it is sampled."""

    name: str
    about: str
    sampler: str  # "calls": each alone; "sessions": of requests of steps
    quantiles: dict[str, Quantiles]
    figures: dict[str, Figure]

    def quantile(self, name: str) -> Quantiles:
        """Raises ExperimentError where the file has none of this name."""
        if name not in self.quantiles:
            raise ExperimentError(f"workload {self.name} has no distribution {name!r}")
        return self.quantiles[name]

    def figure(self, name: str) -> float:
        """Raises ExperimentError where the file has none of this name."""
        if name not in self.figures:
            raise ExperimentError(f"workload {self.name} has no figure {name!r}")
        return self.figures[name].value

    @property
    def assumed(self) -> dict[str, float]:
        """What we assumed, by names that a config may use: `gap_s`, `tool_s_p99`."""
        points = {
            _point_name(name, point): point.value
            for name, quantiles in self.quantiles.items()
            for point in quantiles.points
            if point.kind == ASSUMED
        }
        numbers = {n: figure.value for n, figure in self.figures.items() if figure.kind == ASSUMED}
        return numbers | points

    def assuming(self, values: dict[str, float]) -> "Workload":
        """With other values of what is assumed. Raises ExperimentError for anything else."""
        for name in values:
            if name not in self.assumed:
                near = difflib.get_close_matches(name, list(self.assumed), n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else "see its `assumed` entries"
                raise ExperimentError(f"workload {self.name} assumes no {name!r}: {hint}")
        quantiles = {
            name: dataclasses.replace(
                of,
                points=tuple(
                    dataclasses.replace(p, value=values.get(_point_name(name, p), p.value))
                    for p in of.points
                ),
            )
            for name, of in self.quantiles.items()
        }
        figures = {
            name: dataclasses.replace(figure, value=values.get(name, figure.value))
            for name, figure in self.figures.items()
        }
        return dataclasses.replace(self, quantiles=quantiles, figures=figures)


def all_assumed() -> dict[str, dict[str, float]]:
    """What each workload assumes, by the names of workloads, as a config holds it."""
    return {name: workload(name).assumed for name in names()}


def as_assumed(name: str, assumed: Mapping[str, Mapping[str, float]]) -> Workload:
    """The workload of this name with the values that a config assumes for it."""
    return workload(name).assuming(dict(assumed.get(name, {})))


def _point_name(name: str, point: Percentile) -> str:
    return f"{name}_p{100 * point.share:g}".replace(".", "_")


def names() -> list[str]:
    """Of all workloads."""
    folder = resources.files("experiments.workloads")
    return sorted(
        path.name.removesuffix(".toml")
        for path in folder.iterdir()
        if path.name.endswith(".toml") and path.name != "api_prices.toml"
    )


@functools.cache
def workload(name: str) -> Workload:
    """The workload of this name. Raises ExperimentError, with the nearest name."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names())}"
        raise ExperimentError(f"there is no workload {name!r}: {hint}")
    path = resources.files("experiments.workloads").joinpath(f"{name}.toml")
    return parsed(path.read_text(encoding="utf-8"), name)


def parsed(text: str, name: str) -> Workload:
    """A workload from the text of its file; ExperimentError says which entry is wrong."""
    file = tomllib.loads(text)
    sources = {ASSUMED: "assumed by us", **file["sources"]}

    def sourced(entry: Any, where: str) -> tuple[float, str, str]:
        if not isinstance(entry, list) or len(entry) != 2 or entry[1] not in sources:
            raise ExperimentError(
                f"{name}.toml, {where}: write [value, source], with a key of [sources] or "
                f"'assumed', not {entry!r}"
            )
        kind = "assumed" if entry[1] == ASSUMED else "measured"
        return float(entry[0]), kind, sources[entry[1]]

    quantiles = {}
    for of, points in file.get("percentiles", {}).items():
        found = []
        for percent, entry in points.items():
            value, kind, source = sourced(entry, f"{of}.{percent}")
            share = float(percent.removeprefix("p").replace("_", ".")) / 100
            found.append(Percentile(share=share, value=value, kind=kind, source=source))
        quantiles[of] = Quantiles(name=f"{name}.toml, {of}", points=tuple(found))
    figures = {}
    for of, entry in file.get("figures", {}).items():
        value, kind, source = sourced(entry, of)
        figures[of] = Figure(value=value, kind=kind, source=source)
    return Workload(
        name=name,
        about=file["about"],
        sampler=file["sampler"],
        quantiles=quantiles,
        figures=figures,
    )
