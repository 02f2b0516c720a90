"""Causal attention of T new tokens over all the tokens in the cache, the new ones included.

One token of one sequence goes through `kernels.attend` where that is built, which reads only the
slots in use; anything else reads every slot and masks.
"""

import math

import jax
import jax.numpy as jnp

import kernels
from models import rope


def append_and_attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    position: jax.Array,
    angles: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Rotate the new tokens' q and k, write k and v into the cache, and attend from each token.

    Args:
      q: float32 [B, T, heads, head_width].
      k, v: float32 [B, T, kv_heads, head_width].
      keys, values: the cache, [B, kv_heads, length, head_width].
      position: int32 [B], tokens that each sequence holds so far.
      angles: float32 [2, B, T, head_width / 2], from `rope.angles`.

    Returns:
      float32 [B, T, heads, head_width], and the cache with T tokens more.
    """
    if q.shape[:2] == (1, 1) and kernels.native():
        mixed, keys, values = kernels.attend(
            q[0, 0], k[0, 0], v[0, 0], keys, values, position, angles[:, 0, 0]
        )
        return mixed[None, None], keys, values
    k = rope.rotate(k, angles)
    keys, values = _append(keys, k, position), _append(values, v, position)
    return _attend(rope.rotate(q, angles), keys, values, position), keys, values


def _append(slots: jax.Array, new: jax.Array, position: jax.Array) -> jax.Array:
    new = new.swapaxes(1, 2).astype(slots.dtype)
    if slots.shape[0] == 1:  # a plain slice update stays in place; a batched one is a scatter
        return jax.lax.dynamic_update_slice(slots, new, (0, 0, position[0], 0))
    return jax.vmap(_write)(slots, new, position)


def _write(slots: jax.Array, new: jax.Array, position: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice(slots, new, (0, position, 0))


def _attend(q: jax.Array, keys: jax.Array, values: jax.Array, position: jax.Array) -> jax.Array:
    batch, tokens, heads, width = q.shape
    kv_heads, length = keys.shape[1:3]
    grouped = q.reshape(batch, tokens, kv_heads, heads // kv_heads, width)
    scores = jnp.einsum(
        "btkgw,bklw->bkgtl",
        grouped,
        keys.astype(jnp.float32),
        preferred_element_type=jnp.float32,
        precision="highest",
    )
    last_seen = position[:, None] + jnp.arange(tokens)  # [B, T]
    seen = jnp.arange(length) <= last_seen[:, None, None, :, None]
    shares = jax.nn.softmax(jnp.where(seen, scores / math.sqrt(width), -jnp.inf), axis=-1)
    mixed = jnp.einsum(
        "bkgtl,bklw->btkgw",
        shares,
        values.astype(jnp.float32),
        preferred_element_type=jnp.float32,
        precision="highest",
    )
    return mixed.reshape(batch, tokens, heads, width)
