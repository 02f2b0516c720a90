"""Causal attention of T new tokens over the tokens in the cache, the new ones included.

One token of one sequence goes through `kernels.attend` where that is built, which reads only the
slots in use; anything else reads every slot and masks.

A window's cache may be a ring: token p lies in slot p mod slots, and a slot is known to hold the
last token that can have been written there. With at least `window + T - 1` slots no token that one
of the T new ones attends to has been overwritten, nor is one when the last T are taken back.
"""

import math

import jax
import jax.numpy as jnp

import kernels


def append_and_attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    position: jax.Array,
    *,
    window: int | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Write the new tokens into the cache, then attend from each of them.

    Args:
      q: float32 [B, T, heads, head_width], rotated.
      k, v: float32 [B, T, kv_heads, head_width], k rotated.
      keys, values: the cache, [B, kv_heads, slots, head_width].
      position: int32 [B], tokens that each sequence holds so far.
      window: tokens that each one attends to, itself included; None: all.

    Returns:
      float32 [B, T, heads, head_width], and the cache with T tokens more.
    """
    if q.shape[:2] == (1, 1) and window is None and kernels.native() and _is_float(keys):
        mixed, keys, values = kernels.attend(q[0, 0], k[0, 0], v[0, 0], keys, values, position)
        return mixed[None, None], keys, values
    tokens, slots = q.shape[1], keys.shape[2]
    append = _append if window is None else _append_in_ring
    # Without the barrier XLA:CPU repeats the update inside each use, and copies the cache for it.
    keys, values = jax.lax.optimization_barrier(
        (append(keys, k, position), append(values, v, position))
    )
    if window is None:
        seen = _seen(position, tokens, slots)
    else:
        seen = _seen_in_ring(position, tokens, slots, window)
    return attend(q, keys, values, seen), keys, values


def attend(q: jax.Array, keys: jax.Array, values: jax.Array, seen: jax.Array) -> jax.Array:
    """Softmax attention.

    Args:
      q: float32 [B, T, heads, head_width].
      keys, values: [B, kv_heads, slots, head_width].
      seen: bool [B, 1, 1, T, slots], which slots each token attends to.

    Returns:
      float32 [B, T, heads, head_width].
    """
    batch, tokens, heads, width = q.shape
    kv_heads = keys.shape[1]
    grouped = q.reshape(batch, tokens, kv_heads, heads // kv_heads, width)
    scores = jnp.einsum(
        "btkgw,bklw->bkgtl",
        grouped,
        keys.astype(jnp.float32),
        preferred_element_type=jnp.float32,
        precision="highest",
    )
    shares = jax.nn.softmax(jnp.where(seen, scores / math.sqrt(width), -jnp.inf), axis=-1)
    mixed = jnp.einsum(
        "bkgtl,bklw->btkgw",
        shares,
        values.astype(jnp.float32),
        preferred_element_type=jnp.float32,
        precision="highest",
    )
    return mixed.reshape(batch, tokens, heads, width)


def _is_float(slots: jax.Array) -> bool:
    return slots.dtype in (jnp.float32, jnp.bfloat16)


def _append(slots: jax.Array, new: jax.Array, position: jax.Array) -> jax.Array:
    new = new.swapaxes(1, 2).astype(slots.dtype)
    if slots.shape[0] == 1:  # a plain slice update stays in place; a batched one is a scatter
        return jax.lax.dynamic_update_slice(slots, new, (0, 0, position[0], 0))
    return jax.vmap(_write)(slots, new, position)


def _write(slots: jax.Array, new: jax.Array, position: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice(slots, new, (0, position, 0))


def _seen(position: jax.Array, tokens: int, slots: int) -> jax.Array:
    last_seen = position[:, None] + jnp.arange(tokens)  # [B, T]
    return jnp.arange(slots) <= last_seen[:, None, None, :, None]


def _append_in_ring(slots: jax.Array, new: jax.Array, position: jax.Array) -> jax.Array:
    count = slots.shape[2]
    if new.shape[1] == 1:
        return _append(slots, new, position % count)
    places = (position[:, None] + jnp.arange(new.shape[1])) % count  # [B, T]
    new = new.astype(slots.dtype)  # [B, T, kv_heads, head_width]
    return jax.vmap(_scatter)(slots, places, new)


def _scatter(slots: jax.Array, places: jax.Array, new: jax.Array) -> jax.Array:
    return slots.at[:, places].set(new.swapaxes(0, 1))


def _seen_in_ring(position: jax.Array, tokens: int, slots: int, window: int) -> jax.Array:
    asking = (position[:, None] + jnp.arange(tokens))[:, None, None, :, None]
    last = (position + tokens - 1)[:, None]
    held = last - (last - jnp.arange(slots)) % slots  # [B, slots], the token in each
    held = held[:, None, None, None, :]
    return (held >= 0) & (held <= asking) & (held > asking - window)
