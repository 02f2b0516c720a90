"""The tree of weights that the decoder computes with, from a checkpoint, in the dtype asked for.

Leaves are made one by one, so that loading needs little more memory than the result. What a dtype
means is in `models.formats`; scales sit beside what they scale (`kernel_scale`, `weight_scale`).
"""

import dataclasses
import re
from typing import Any

import jax
import numpy as np
import tqdm

import kernels
from kernels import LargePages
from models.config import DecoderConfig
from models.errors import ModelError
from models.formats import check_format, quantize
from models.shapes import STORED, format_of
from models.stacking import places_in_stacks
from models.stored import Checkpoint

Weights = dict[str, Any]

DTYPES = ("float32", "bfloat16", "int8")  # those that the native products take


def reads_in_place(config: DecoderConfig, dtype: str) -> bool:
    """Whether a decode step of one token reads every layer where it lies in stacks.

    Where it does not, each step copies each layer out of its stacks first, and layers one by one
    are faster: SmolLM2-135M without native products twice in float32, 14 times in bfloat16. Experts
    are gathered by XLA, which would widen a stack of bfloat16 ones whole in every step.
    """
    special = (config.latent, config.delta, config.experts)
    return (
        kernels.native()
        and dtype in DTYPES
        and config.arithmetic == "float32"
        and all(part is None for part in special)
        and not config.sinks
        and all(
            kind.window is None and kind.rope is not None and kind.rope.width == config.head_width
            for kind in config.kinds
        )
    )


def load_weights(
    checkpoint: Checkpoint,
    dtype: str = "float32",
    layers: int | None = None,
    *,
    stacked: bool = False,
) -> Weights:
    """The weights of a checkpoint as a tree of jax arrays on the default device.

    Keys are those of `models.shapes`, with the layers' numbers as ints; `stacked`: alike ones in
    stacks, as `models.stacking` names them; `reads_in_place` says for what that is meant. `dtype`
    is a format of `models.formats`; norm scales and biases are float32 whatever it is. `layers`
    takes the first so many only. Shows a progress bar when it takes over a second. Raises
    ModelError for an unknown dtype, a count of layers that the model does not have, and weights
    that are not finite.
    """
    check_format(dtype)
    count = checkpoint.config.layers
    if layers is not None and not 1 <= layers <= count:
        raise ModelError(f"{checkpoint.name} has 1 to {count} layers to take, not {layers}")
    names = [name for name in checkpoint.tensor_names if _layer_of(name) < (layers or count)]
    config = dataclasses.replace(checkpoint.config, layers=layers or count)
    places = places_in_stacks(config) if stacked else {}
    rooms: dict[str, np.ndarray] = {}  # of stacks
    weights: Weights = {}
    pages = LargePages()
    for name in tqdm.tqdm(
        names, desc=f"loading {checkpoint.name}", delay=1.0, leave=False, disable=None
    ):
        for leaf, values in _stored_as(name, checkpoint.read(name), dtype).items():
            if not stacked or not leaf.startswith("layers/"):
                _insert(weights, leaf, pages.put(values))
                continue
            _, number, rest = leaf.split("/", 2)
            place = places[int(number)]
            key = f"{place.stack}/{rest}"
            if key not in rooms:
                rooms[key] = pages.room((place.depth, *values.shape), values.dtype)
            rooms[key][place.row] = values
    for key, room in rooms.items():
        _insert(weights, key, pages.filled(room))
    return weights


def _stored_as(name: str, values: np.ndarray, dtype: str) -> dict[str, np.ndarray]:
    if name.rsplit("/", 1)[-1] not in STORED:  # norm scales and biases
        return {name: values.astype(np.float32)}
    parts = quantize(values, format_of(name, dtype))
    return {f"{name}{suffix}": part for suffix, part in parts.items()}


def _layer_of(name: str) -> int:
    found = re.match(r"layers/(\d+)/", name)
    return int(found[1]) if found else 0


def _insert(weights: Weights, name: str, leaf: jax.Array) -> None:
    *parents, last = (int(key) if key.isdecimal() else key for key in name.split("/"))
    branch: dict[Any, Any] = weights
    for key in parents:
        branch = branch.setdefault(key, {})
    branch[last] = leaf
