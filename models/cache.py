"""The KV cache: fixed shapes, so that one compiled step serves every token.

A sequence's tokens take slots 0, 1, 2, … of its row, and `position` is how many it holds. A step
writes at `position` and moves it on; slots behind it are never read, so taking tokens back (as
speculative decoding does with rejected ones) is only a smaller `position`.
"""

import dataclasses

import jax
import jax.numpy as jnp

from models.config import DecoderConfig
from models.errors import ModelError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class KVCache:
    """Keys and values of every layer, and how many tokens each sequence holds."""

    keys: tuple[jax.Array, ...]  # per layer [batch, kv_heads, length, head_width]
    values: tuple[jax.Array, ...]  # per layer [batch, kv_heads, length, head_width]
    position: jax.Array  # int32 [batch], tokens held

    @property
    def length(self) -> int:
        """Slots per sequence."""
        return int(self.keys[0].shape[2])

    def rewind(self, position: jax.Array) -> "KVCache":
        """The same cache, holding only the first `position` [batch] tokens."""
        return dataclasses.replace(self, position=position.astype(jnp.int32))


def new_cache(
    config: DecoderConfig, *, batch: int, length: int, dtype: jax.typing.DTypeLike = jnp.float32
) -> KVCache:
    """An empty cache of `length` slots for each of `batch` sequences."""
    if batch < 1 or length < 1:
        raise ModelError(f"cache: batch ({batch}) and length ({length}) must be at least 1")
    shape = (batch, config.kv_heads, length, config.head_width)
    return KVCache(
        keys=tuple(jnp.zeros(shape, dtype) for _ in range(config.layers)),
        values=tuple(jnp.zeros(shape, dtype) for _ in range(config.layers)),
        position=jnp.zeros((batch,), jnp.int32),
    )
