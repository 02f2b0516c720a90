"""Which number would have to change to change the answer.

The elasticity of a step's time t to a number x is d log t / d log x: by how many per cent the step
takes longer when the number grows by one. It comes from one gradient through the clock, over every
number of the system at once, chip and stack.
"""

import dataclasses
import math
from typing import Any

import jax

from emu.chips import Sourced
from emu.placement import Placement
from emu.system import System
from emu.timing import predict
from emu.work import Work


@dataclasses.dataclass(frozen=True, kw_only=True)
class Elasticity:
    """Of the step's time to one number."""

    name: str  # chip/hbm/bandwidth_bytes_per_s
    number: Sourced
    value: float  # d log t / d log x; -1: a step that this bandwidth alone decides


def elasticities(
    work: Work, system: System, placement: Placement, *, smooth: float = 0.0
) -> tuple[Elasticity, ...]:
    """Of all numbers that the step's time depends on, the strongest first.

    Args:
      work, system, placement, smooth: as for `emu.predict`. At a corner of the exact clock, where
        two resources take equally long, its gradient is that of one side.
    """
    seconds, slopes = jax.value_and_grad(
        lambda s: predict(work, s, placement, smooth=smooth).seconds
    )(system)
    return ranked(system, float(seconds), slopes)


def ranked(system: System, seconds: float, slopes: System) -> tuple[Elasticity, ...]:
    """Elasticities from the slopes of a step's seconds to each number of a system."""
    found = []
    slope_of = dict(jax.tree_util.tree_flatten_with_path(slopes)[0])
    for path, number in jax.tree_util.tree_flatten_with_path(system, is_leaf=_is_sourced)[0]:
        if not isinstance(number, Sourced):
            continue
        slope = float(slope_of[(*path, jax.tree_util.GetAttrKey("value"))])
        if not math.isfinite(float(number.value)):
            continue  # "no limit": its slope is none
        value = slope * float(number.value) / seconds
        if value:
            found.append(Elasticity(name=name_of(system, path), number=number, value=value))
    return tuple(sorted(found, key=lambda one: -abs(one.value)))


def _is_sourced(node: Any) -> bool:
    return isinstance(node, Sourced)


def name_of(system: System, path: tuple[Any, ...]) -> str:
    """A key path into a system, with memories and links by their names."""
    node: Any = system
    parts = []
    for key in path:
        if isinstance(key, jax.tree_util.GetAttrKey):
            node = getattr(node, key.name)
            part = key.name
        elif isinstance(key, jax.tree_util.SequenceKey):
            node = node[key.idx]
            part = getattr(node, "name", str(key.idx))
        else:
            node = node[key.key]
            part = str(key.key)
        if not isinstance(node, tuple):  # `memories`, `links`: their members have names
            parts.append(part)
    return "/".join(parts)
