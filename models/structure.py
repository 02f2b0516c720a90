"""Modules around weights: from a config to an abstract module, and from a tree to a full one.

A module's structure follows from the config; what its weights are stored in follows from the tree
of weights, whose scales stand beside what they scale (`kernel`, `kernel_scale`).
"""

import functools
from typing import Any, TypeVar

from flax import nnx

from models.config import DecoderConfig
from models.decoder import Decoder, Stack

Tree = dict[Any, Any]
M = TypeVar("M", bound=Stack)


def fill(kind: type[M], config: DecoderConfig, weights: Tree) -> M:
    """The module holding these weights; their layers may be a list or scanned."""
    structure, state = _abstract(kind, config, is_scanned(weights))
    module: M = nnx.merge(structure, state)
    _set(module, weights)
    return module


def is_scanned(weights: Tree) -> bool:
    """Whether the layers' weights are stacked."""
    return not all(isinstance(key, int) for key in weights["layers"])


@functools.cache
def abstract_tree(config: DecoderConfig) -> Tree:
    """The tree of a scanned decoder in float32, with the shapes of one layer for each group."""
    _, state = _abstract(Decoder, config, True)
    tree: Tree = nnx.to_pure_dict(state)
    return tree


def _set(module: Any, weights: Tree) -> None:
    for key, value in weights.items():
        if isinstance(value, dict):
            inside = isinstance(module, nnx.List | nnx.Dict)
            _set(module[key] if inside else getattr(module, key), value)
        else:
            setattr(module, key, nnx.Param(value))


@functools.cache
def _abstract(kind: type[Stack], config: DecoderConfig, scanned: bool) -> tuple[Any, Any]:
    return nnx.split(nnx.eval_shape(lambda: kind(config, scanned=scanned)))
