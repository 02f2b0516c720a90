"""What a layer with the gated delta rule keeps of the tokens so far, however many they are."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from models.delta_config import DeltaRule
from models.slots import KeysValues


class Window(NamedTuple):
    """The last inputs of the convolutions, [B, taps - 1, channels] each, the newest last."""

    q: jax.Array
    k: jax.Array
    v: jax.Array


def new_state(rule: DeltaRule, outer: tuple[int, ...], dtype: jax.typing.DTypeLike) -> KeysValues:
    """The state before the first token: the window in the place of keys, matrices of values.

    `outer`: leading dimensions, the batch last. The matrices are in float32, since errors in them
    stay; the window is at least as wide as bfloat16, whatever `dtype` the KV cache has.
    """
    keys, heads = rule.key_heads * rule.key_width, rule.value_heads // rule.key_heads
    values = rule.value_heads * rule.value_width
    wide = jnp.float32 if jnp.dtype(dtype) == jnp.float32 else jnp.bfloat16
    window = [jnp.zeros((*outer, rule.taps - 1, n), wide) for n in (keys, keys, values)]
    matrices = (*outer, rule.key_heads, heads, rule.key_width, rule.value_width)
    # No slots: nothing but models.delta_net looks into them.
    return KeysValues(Window(*window), jnp.zeros(matrices, jnp.float32))  # type: ignore[arg-type]


def is_state(keys: Any) -> bool:
    """Whether a layer's keys are a window, so that it has no slots."""
    return isinstance(keys, Window)
