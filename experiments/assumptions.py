"""What an answer depends on, as tables: our assumptions, and the numbers of chips and stacks.

The elasticity of an answer to a number is by how many per cent the answer grows when the number
grows by one.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from emu.report import Table
from experiments.errors import ExperimentError
from experiments.step_times import StepTimes
from experiments.wording import figures

S = TypeVar("S")
Path = tuple[str, ...]
_STEP = 0.02  # up and down
_SHOWN = 0.0005  # smaller elasticities are told as none
_NUMBERS = 4  # of each system


@dataclasses.dataclass(frozen=True, kw_only=True)
class Effects:
    """What assumptions do to an answer: path, value and elasticity of each, the strongest first."""

    base: float
    step: float  # by which each was moved, up and down
    slopes: tuple[tuple[str, float, float], ...]


def everything(path: Path) -> bool:
    """Every field counts."""
    return bool(path)


def effects(
    settings: S,
    answer: Callable[[S], float],
    counts: Callable[[Path], bool] = everything,
    step: float = _STEP,
) -> Effects:
    """Of every assumption (a float field of the settings) on an answer.

    Args:
      settings: frozen, as a config gives them; whole numbers and names are choices and stay.
      answer: computes it anew for other settings.
      counts: whether a field counts; the others are not moved and not told.
      step: up and down, as a share of the value.
    """
    base = answer(settings)
    found = []
    for path, value in float_fields(settings):
        if not counts(path):
            continue
        try:
            ends = [answer(_with(settings, path, value * (1 + d))) for d in (step, -step)]
        except ExperimentError:  # at the edge of what is allowed: only one side can be asked
            ends = [_one_sided(settings, path, value, answer, base, step), base]
        slope = (ends[0] - ends[1]) / base / (2 * step) if base else 0.0
        found.append((".".join(path), value, slope))
    found.sort(key=lambda one: -abs(one[2]))
    return Effects(base=base, step=step, slopes=tuple(found))


def effects_table(found: Effects, what: str) -> Table:
    """As a table; `what`: the answer in words."""
    return Table(
        title=f"Assumptions, and the elasticity of the {what}",
        columns=("--config.…", "value", "elasticity"),
        rows=tuple(
            (path, f"{value:g}", f"{slope:+.3f}" if abs(slope) > _SHOWN else "0")
            for path, value, slope in found.slopes
        ),
        note=f"{what}: {figures(found.base)}. Elasticity: by how many per cent it grows when the "
        f"assumption grows by one (taken over {100 * found.step:g} % up and down, with the same "
        "random draws).",
    )


def _one_sided(
    settings: S, path: Path, value: float, answer: Callable[[S], float], base: float, step: float
) -> float:
    """The answer at twice the step on the side that is allowed, turned to point upwards."""
    for sign in (2, -2):
        try:
            moved = answer(_with(settings, path, value * (1 + sign * step)))
        except ExperimentError:
            continue
        return base + (moved - base) * (1 if sign > 0 else -1)
    return base


def float_fields(settings: Any, path: Path = ()) -> Iterator[tuple[Path, float]]:
    """Paths and values of all floats that are not 0, which means none or the catalogue's."""
    if dataclasses.is_dataclass(settings):
        members: Mapping[str, Any] = {
            f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)
        }
    elif isinstance(settings, dict):
        members = settings
    else:
        members = {}
    for name, value in members.items():
        if isinstance(value, float) and value:
            yield (*path, name), value
        else:
            yield from float_fields(value, (*path, name))


def _with(settings: Any, path: Path, value: float) -> Any:
    name, *rest = path
    if isinstance(settings, dict):
        inner = _with(settings[name], tuple(rest), value) if rest else value
        return settings | {name: inner}
    inner = _with(getattr(settings, name), tuple(rest), value) if rest else value
    return dataclasses.replace(settings, **{name: inner})


def number_table(tables: Mapping[str, StepTimes]) -> Table:
    """The numbers with a range that a typical step of each system depends on most."""
    rows = []
    for name, times in tables.items():
        strongest = sorted(times.moved, key=lambda one: -abs(one.elasticity))[:_NUMBERS]
        rows += [
            (
                name,
                one.name,
                one.kind,
                f"{one.value:.4g}",
                f"{one.low:.4g} to {one.high:.4g}",
                f"{one.elasticity:+.3f}",
            )
            for one in strongest
        ]
    return Table(
        title="Numbers of chips and stacks with a range, and the elasticity of a typical step",
        columns=("system", "number", "kind", "value", "range", "elasticity"),
        rows=tuple(rows),
        note=f"The {_NUMBERS} strongest of each system, in SI units, between the ends of their "
        "ranges.",
    )
