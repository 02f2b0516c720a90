"""Weights whose layers are stacked on a leading axis, from weights whose layers are a list.

Layers that are alike are stacked as `models.layer_kinds` groups them: `layers/attention/q/kernel`
where all are, else by the numbers of the layers in a group (`layers/3:61/attention/q/kernel`).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from models.config import DecoderConfig
from models.shapes import only


class Place(NamedTuple):
    """Where a layer's weights are in stacks."""

    stack: str  # the path of the stacks of its group: `layers`, or `layers/3:61`
    row: int
    depth: int  # layers in the group


def places_in_stacks(config: DecoderConfig) -> dict[int, Place]:
    """By the layers' numbers."""
    groups = [group for run in config.runs for group in run.groups]
    return {
        number: Place(
            stack="layers" if len(groups) == 1 else f"layers/{group.name}",
            row=row,
            depth=len(group.layers),
        )
        for group in groups
        for row, number in enumerate(group.layers)
    }


def stack_layers(config: DecoderConfig, weights: dict[str, Any]) -> dict[str, Any]:
    """The same weights with stacked layers; copies them."""
    layers = weights["layers"]
    stacked = {
        group.name: jax.tree.map(
            lambda *leaves: jnp.stack(leaves), *(layers[n] for n in group.layers)
        )
        for run in config.runs
        for group in run.groups
    }
    return weights | {"layers": only(stacked)}
