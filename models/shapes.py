"""Which weights a decoder has: our key path and shape of each, from the config alone.

Read off the modules, so that nothing is said twice; loaders check files against it, and the tree
of weights is built from it. Kernels are [out, in], as files store them.
"""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from models.config import DecoderConfig
from models.formats import MLPS_ALONE, check_format, is_narrow, stored_shapes
from models.layer_kinds import Group
from models.structure import abstract_tree

Shapes = dict[str, tuple[int, ...]]
Tree = dict[Any, Any]

# Kernels and tables are what a weight format stores; all else (norm scales, biases) is float32.
STORED = ("kernel", "weight")
_WIDE = {"router", "head_weights"}  # small, and they choose: experts, and an indexer's tokens


def weight_shapes(config: DecoderConfig) -> Shapes:
    """Shapes of all the weights by key path (`layers/0/attention/q/kernel`)."""
    tree = abstract_tree(config)
    shapes: Shapes = _flat("embedding", tree["embedding"])
    kinds = {kind: _flat("", layer) for kind, layer in _layers(config)}
    for number, kind in enumerate(config.kinds):
        shapes |= {f"layers/{number}{name}": shape for name, shape in kinds[kind].items()}
    return shapes | _flat("norm", tree["norm"]) | _flat("head", tree.get("head", {}))


def parameters(config: DecoderConfig) -> int:
    """How many numbers the weights are; a tied embedding counts once."""
    return sum(math.prod(shape) for shape in weight_shapes(config).values())


def shapes(config: DecoderConfig, dtype: str = "float32", *, scanned: bool = False) -> Tree:
    """The weights tree as `jax.ShapeDtypeStruct`s: what a loader must fill.

    `dtype`: a format of `models.formats`. `scanned`: with the layers of each group stacked on a
    leading axis.
    """
    check_format(dtype)
    tree = {key: value for key, value in abstract_tree(config).items() if key != "layers"}
    tree = {key: _stored(value, dtype, (), key) for key, value in tree.items()}
    if not scanned:
        layers = {kind: _stored(layer, dtype, ()) for kind, layer in _layers(config)}
        return tree | {"layers": {n: _copy(layers[kind]) for n, kind in enumerate(config.kinds)}}
    stacked = {
        group.name: _stored(layer, dtype, (len(group.layers),)) for group, layer in _groups(config)
    }
    return tree | {"layers": only(stacked)}


def format_of(path: str, dtype: str) -> str:
    """What a kernel is stored in when the weights are in `dtype`: some are not made narrow."""
    parts, form = path.split("/"), dtype.removesuffix(MLPS_ALONE)
    wide = not _WIDE.isdisjoint(parts) or (form != dtype and "mlp" not in parts)
    return "bfloat16" if is_narrow(form) and wide else form


def only(stacked: Tree) -> Tree:
    """Groups of layers by name; one that is alone needs none."""
    return next(iter(stacked.values())) if len(stacked) == 1 else stacked


def _layers(config: DecoderConfig) -> Iterator[tuple[Any, Tree]]:
    return ((group.kind, layer) for group, layer in _groups(config))


def _groups(config: DecoderConfig) -> Iterator[tuple[Group, Tree]]:
    groups = [group for run in config.runs for group in run.groups]
    layers = abstract_tree(config)["layers"]
    return ((group, layers if len(groups) == 1 else layers[group.name]) for group in groups)


def _flat(prefix: str, tree: Tree) -> Shapes:
    flat: Shapes = {}
    for key, value in tree.items():
        path = f"{prefix}/{key}"
        flat |= _flat(path, value) if isinstance(value, dict) else {path: value.shape}
    return flat


def _copy(tree: Tree) -> Tree:
    return {key: _copy(value) if isinstance(value, dict) else value for key, value in tree.items()}


def _stored(tree: Tree, dtype: str, stack: tuple[int, ...], path: str = "") -> Tree:
    stored: Tree = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            stored[key] = _stored(value, dtype, stack, f"{path}/{key}")
        elif key in STORED:
            parts = stored_shapes((*stack, *value.shape), format_of(path, dtype))
            stored |= {f"{key}{suffix}": part for suffix, part in parts.items()}
        else:
            stored[key] = jax.ShapeDtypeStruct((*stack, *value.shape), jnp.float32)
    return stored
