"""The tree of weights that the decoder computes with, from a checkpoint, in the dtype asked for.

Leaves are made one by one, so that loading needs little more memory than the result. Int8 is
symmetric with one scale per output channel, a row of the stored [out, in] kernel:

    scale = max |w| / 127,  w ≈ scale * round(w / scale)

and the scales sit beside what they scale (`kernel_scale`, `weight_scale`).
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import tqdm

from models.errors import ModelError
from models.shapes import STORED
from models.stored import Checkpoint

Weights = dict[str, Any]

DTYPES = ("float32", "bfloat16", "int8")


def load_weights(
    checkpoint: Checkpoint, dtype: str = "float32", layers: int | None = None
) -> Weights:
    """The weights of a checkpoint as a tree of jax arrays on the default device.

    Keys are those of `models.shapes`, with the layers' numbers as ints. Norm scales and biases are
    float32 whatever the dtype. `layers` takes the first so many only. Shows a progress bar when it
    takes over a second. Raises ModelError for an unknown dtype, a count of layers that the model
    does not have, and weights that are not finite.
    """
    if dtype not in DTYPES:
        raise ModelError(f"weights dtype must be {', '.join(DTYPES)}, not {dtype!r}")
    count = checkpoint.config.layers
    if layers is not None and not 1 <= layers <= count:
        raise ModelError(f"{checkpoint.name} has 1 to {count} layers to take, not {layers}")
    names = [name for name in checkpoint.tensor_names if _layer_of(name) < (layers or count)]
    weights: Weights = {}
    for name in tqdm.tqdm(
        names, desc=f"loading {checkpoint.name}", delay=1.0, leave=False, disable=None
    ):
        for leaf, values in _stored_as(name, checkpoint.read(name), dtype).items():
            _insert(weights, leaf, jax.device_put(values))
    return weights


def quantize_rows(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rounds float weights [out, in] to int8 with a float32 scale [out] per row.

    The largest of a row becomes ±127 exactly; a row of zeros has scale 0 and stays zeros.
    """
    weights = weights.astype(np.float32, copy=False)
    scale = np.maximum(weights.max(axis=1), -weights.min(axis=1)) / np.float32(127)
    safe = np.where(scale > 0, scale, np.float32(1))[:, None]
    rounded = np.rint(weights / safe)
    return np.clip(rounded, -127, 127).astype(np.int8), scale


def _stored_as(name: str, values: np.ndarray, dtype: str) -> dict[str, np.ndarray]:
    if name.rsplit("/", 1)[-1] not in STORED:
        return {name: values.astype(np.float32)}
    if dtype == "int8":
        rounded, scale = quantize_rows(values)
        return {name: rounded, f"{name}_scale": scale}
    return {
        name: values.astype(np.float32 if dtype == "float32" else ml_dtypes.bfloat16, copy=False)
    }


def _layer_of(name: str) -> int:
    found = re.match(r"layers/(\d+)/", name)
    return int(found[1]) if found else 0


def _insert(weights: Weights, name: str, leaf: jax.Array) -> None:
    *parents, last = (int(key) if key.isdecimal() else key for key in name.split("/"))
    branch: dict[Any, Any] = weights
    for key in parents:
        branch = branch.setdefault(key, {})
    branch[last] = jnp.asarray(leaf)
