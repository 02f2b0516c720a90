"""Prefill and decode as pure functions of (weights, cache, tokens).

`weights` is a plain nested dict of arrays, keyed as the decoder's modules are
(`layers/0/attention/q/kernel`); its dtypes say how it is stored. Layers may also be stacked, to be
scanned over (`layers/attention/q/kernel`; see `models.stacking`), with a cache made so.
Nothing here is jitted, so that callers choose what to donate; `models.generate` shows how.
"""

from typing import Any

import jax
import jax.numpy as jnp

from models.cache import KVCache
from models.config import DecoderConfig
from models.decoder import Decoder, Stack
from models.shapes import shapes
from models.structure import fill

__all__ = ["Weights", "decode_step", "layer_step", "prefill", "shapes"]

Weights = dict[str, Any]


def decode_step(
    config: DecoderConfig,
    weights: Weights,
    cache: KVCache,
    tokens: jax.Array,
    *,
    in_place: bool = False,
) -> tuple[jax.Array, KVCache]:
    """Append T ≥ 1 tokens to every sequence.

    Args:
      config: static.
      weights: see the module.
      cache: its `position` [B] says where each sequence's tokens go; callers see to it that
        position + T ≤ the cache's length.
      tokens: int32 [B, T].
      in_place: with stacked layers, one token of one sequence reads its weights and its cache where
        they lie in their stacks, where the native products take them; else, or otherwise, each
        layer's are sliced out first. What a trace says of slices is what it says of layers by
        themselves, so traces take those.

    Returns:
      float32 logits [B, T, vocab] after each of the tokens, and the cache, T tokens on.
    """
    model = fill(Decoder, config, weights)
    hidden, cache = model.run_layers(model.embed(tokens), cache, in_place=in_place)
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
    model = fill(Decoder, config, weights)
    before = cache.position
    hidden, cache = model.run_layers(model.embed(tokens), cache, lengths)
    last = jnp.take_along_axis(hidden, jnp.maximum(lengths - 1, 0)[:, None, None], axis=1)
    return model.logits(last)[:, 0], cache.rewind(before + lengths)


def layer_step(
    config: DecoderConfig, weights: Weights, cache: KVCache, hidden: jax.Array
) -> tuple[jax.Array, KVCache]:
    """Only the layers: hidden states [B, T, width] in and out, and the cache, T tokens on.

    `weights` needs its `layers` alone.
    """
    model = fill(Stack, config, weights)
    return model.run_layers(hidden, cache)
