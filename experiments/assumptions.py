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
_STEP = 0.02  # up and down
_SHOWN = 0.0005  # smaller elasticities are told as none
_NUMBERS = 4  # of each system


def elasticity_table(
    settings: S, answer: Callable[[S], float], what: str, only: tuple[str, ...] = ()
) -> Table:
    """Of an answer to every assumption (a float field of the settings), the strongest first.

    Args:
      settings: frozen, as a config gives them; whole numbers and names are choices and stay.
      answer: computes it anew for other settings, from the same predictions.
      what: the answer in words.
      only: the fields that count without predicting or simulating again; (): all.
    """
    base = answer(settings)
    found = []
    for path, value in float_fields(settings):
        if only and path[0] not in only:
            continue
        try:
            ends = [answer(_with(settings, path, value * (1 + d))) for d in (_STEP, -_STEP)]
        except ExperimentError:  # at the edge of what is allowed: only one side can be asked
            ends = [_one_sided(settings, path, value, answer), base]
        slope = (ends[0] - ends[1]) / base / (2 * _STEP) if base else 0.0
        found.append((path, value, slope))
    found.sort(key=lambda one: -abs(one[2]))
    return Table(
        title=f"Assumptions, and the elasticity of the {what}",
        columns=("--config.…", "value", "elasticity"),
        rows=tuple(
            (".".join(path), f"{value:g}", f"{slope:+.3f}" if abs(slope) > _SHOWN else "0")
            for path, value, slope in found
        ),
        note=f"{what}: {figures(base)}. Elasticity: by how many per cent it grows when the "
        f"assumption grows by one (taken over {100 * _STEP:g} % up and down, with the same random "
        "draws).",
    )


def _one_sided(settings: Any, path: tuple[str, ...], value: float, answer: Any) -> float:
    """The answer at twice the step on the side that is allowed, turned to point upwards."""
    base = float(answer(settings))
    for sign in (2, -2):
        try:
            moved = float(answer(_with(settings, path, value * (1 + sign * _STEP))))
        except ExperimentError:
            continue
        return base + (moved - base) * (1 if sign > 0 else -1)
    return base


def float_fields(settings: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[Any, float]]:
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


def _with(settings: Any, path: tuple[str, ...], value: float) -> Any:
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
