"""Weights whose layers are stacked on a leading axis, from weights whose layers are a list.

Layers that are alike are stacked as `models.layer_kinds` groups them: `layers/attention/q/kernel`
where all are, else by the numbers of the layers in a group (`layers/3:61/attention/q/kernel`).
"""

from typing import Any

import jax
import jax.numpy as jnp

from models.config import DecoderConfig
from models.shapes import only


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
