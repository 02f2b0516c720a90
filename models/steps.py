"""Prefill and decode as pure functions of (weights, cache, tokens).

`weights` is a plain nested dict of arrays, keyed as the decoder's modules are
(`layers/0/attention/q/kernel`); its dtypes say how it is stored. Nothing here is jitted, so that
callers choose what to donate; `models.generate` shows how.
"""

import functools
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from models.cache import KVCache
from models.config import DecoderConfig
from models.decoder import Decoder, Stack

Weights = dict[str, Any]
M = TypeVar("M", bound=Stack)


def decode_step(
    config: DecoderConfig, weights: Weights, cache: KVCache, tokens: jax.Array
) -> tuple[jax.Array, KVCache]:
    """Append T ≥ 1 tokens to every sequence.

    Args:
      config: static.
      weights: see the module.
      cache: its `position` [B] says where each sequence's tokens go; callers see to it that
        position + T ≤ the cache's length.
      tokens: int32 [B, T].

    Returns:
      float32 logits [B, T, vocab] after each of the tokens, and the cache, T tokens on.
    """
    model = _module(Decoder, config, weights)
    hidden, cache = model.run_layers(model.embedding(tokens), cache)
    return model.logits(hidden), cache


def prefill(
    config: DecoderConfig, weights: Weights, cache: KVCache, tokens: jax.Array, lengths: jax.Array
) -> tuple[jax.Array, KVCache]:
    """Append prompts, or chunks of prompts, of different lengths.

    Args:
      config: static.
      weights: see the module.
      cache: as for `decode_step`.
      tokens: int32 [B, T], each row's first `lengths` real and the rest of any value.
      lengths: int32 [B], 0 ≤ lengths ≤ T; a row of none is left as it was, and its logits mean
        nothing.

    Returns:
      float32 logits [B, vocab] after each row's last real token (the only ones that a prompt
      needs, and the head is the largest product), and the cache, `lengths` tokens on.
    """
    model = _module(Decoder, config, weights)
    before = cache.position
    hidden, cache = model.run_layers(model.embedding(tokens), cache)
    last = jnp.take_along_axis(hidden, jnp.maximum(lengths - 1, 0)[:, None, None], axis=1)
    return model.logits(last)[:, 0], cache.rewind(before + lengths)


def layer_step(
    config: DecoderConfig, weights: Weights, cache: KVCache, hidden: jax.Array
) -> tuple[jax.Array, KVCache]:
    """Only the layers: hidden states [B, T, width] in and out, and the cache, T tokens on.

    `weights` needs its `layers` alone.
    """
    model = _module(Stack, config, weights)
    return model.run_layers(hidden, cache)


def shapes(config: DecoderConfig, dtype: str = "float32") -> Weights:
    """The weights tree as `jax.ShapeDtypeStruct`s: what a loader must fill."""
    _, state = _abstract(Decoder, config, dtype == "int8")
    stored: Weights = jax.tree.map(
        lambda x: x if x.ndim == 1 or dtype == "int8" else jax.ShapeDtypeStruct(x.shape, dtype),
        nnx.to_pure_dict(state),
    )
    return stored


def _module(kind: type[M], config: DecoderConfig, weights: Weights) -> M:
    """The module holding these weights; what they are stored in shows in one of them."""
    kernel = weights["layers"][0]["attention"]["q"]["kernel"]
    structure, state = _abstract(kind, config, kernel.dtype == jnp.int8)
    state = jax.tree.map(lambda x: x, state)  # a copy: replacing happens in place
    nnx.replace_by_pure_dict(state, weights)
    module: M = nnx.merge(structure, state)
    return module


@functools.cache
def _abstract(kind: type[Stack], config: DecoderConfig, int8: bool) -> tuple[Any, Any]:
    return nnx.split(nnx.eval_shape(lambda: kind(config, "int8" if int8 else "float32")))
