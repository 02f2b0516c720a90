"""Causal attention of T new tokens over the tokens in the cache, the new ones included.

One token of one sequence goes through `kernels.attend` where that is built, which reads only the
slots in use; anything else reads every slot and masks.

A window's cache may be a ring: token p lies in slot p mod slots, and a slot is known to hold the
last token that can have been written there. With at least `window + T - 1` slots no token that one
of the T new ones attends to has been overwritten, nor is one when the last T are taken back.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

import kernels
from models import rope
from models.slots import KeysValues, ScaledSlots, Slots, encode, slot_count, widen


class Place(NamedTuple):
    """Where new tokens stand in their sequences."""

    position: jax.Array  # int32 [B], tokens that each sequence holds so far
    angles: (
        jax.Array | None
    )  # float32 [2, B, T, turning / 2], of `rope.angles`; None: nothing turns
    # int32 [B], how many of the new tokens are real; None: all
    lengths: jax.Array | None = None
    # int32 []: caches are stacks of all layers', and this one's is the `layer`-th; None: its own
    layer: jax.Array | None = None


def append_and_attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    cache: KeysValues,
    place: Place,
    *,
    window: int | None = None,
    chunked: bool = False,
    sinks: jax.Array | None = None,
) -> tuple[jax.Array, KeysValues]:
    """Rotate the new tokens' q and k, write k and v into the cache, and attend from each token.

    Args:
      q: [B, T, heads, head_width], in the dtype of the arithmetic.
      k, v: [B, T, kv_heads, head_width].
      cache: of this layer; of all layers, where the place names one (and `is_native` holds).
      place: where the new tokens stand.
      window: tokens that each one attends to, itself included; None: all.
      chunked: it does not slide; contexts are cut into chunks of `window`.
      sinks: float32 [heads], logits that take a share of attention and give nothing.

    Returns:
      [B, T, heads, head_width] in q's dtype, and the cache with T tokens more.
    """
    one_token = q.shape[:2] == (1, 1) and q.dtype == jnp.float32
    plain = window is None and sinks is None
    if one_token and plain and is_native(cache, place, q.shape[-1]):
        return _natively(q, k, v, cache, place)
    q, k = rope.rotate(q, place.angles), rope.rotate(k, place.angles)
    cache = append(cache, k, v, place.position, ring=window is not None)
    seen = seen_slots(place.position, q.shape[1], slot_count(cache.keys), window, chunked=chunked)
    return attend(q, cache.keys, cache.values, seen, sinks), cache


def is_native(cache: KeysValues, place: Place, width: int) -> bool:
    """Whether one token goes through `kernels.attend`, which knows no windows and no sinks.

    Nor does it take slots with scales, or turn less than the whole `width` of a head.
    """
    types = {jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16)}
    return (
        kernels.native()
        and place.angles is not None
        and 2 * place.angles.shape[-1] == width
        and not any(isinstance(s, ScaledSlots) or s.dtype not in types for s in cache[:2])
    )


def append(
    cache: KeysValues, k: jax.Array, v: jax.Array, position: jax.Array, *, ring: bool = False
) -> KeysValues:
    """Write new tokens' k and v into the cache, as `written` does each."""
    return cache._replace(
        keys=written(cache.keys, k, position, ring=ring),
        values=written(cache.values, v, position, ring=ring),
    )


def written(slots: Slots, new: jax.Array, position: jax.Array, *, ring: bool = False) -> Slots:
    """Slots [B, kv_heads, slots, width] with new tokens [B, T, kv_heads, width] in them."""
    write = _write_in_ring if ring else _write
    after: Slots = jax.tree.map(lambda s, n: write(s, n, position), slots, encode(new, slots))
    return after


def seen_slots(
    position: jax.Array,
    tokens: int,
    slots: int,
    window: int | None = None,
    *,
    chunked: bool = False,
) -> jax.Array:
    """Which slots each of T new tokens attends to: bool [B, 1, 1, T, slots]."""
    asking = (position[:, None] + jnp.arange(tokens))[:, None, None, :, None]
    if window is None:
        return jnp.arange(slots) <= asking
    last = (position + tokens - 1)[:, None]
    held = last - (last - jnp.arange(slots)) % slots  # [B, slots], the token in each
    held = held[:, None, None, None, :]
    near = held // window == asking // window if chunked else held > asking - window
    return (held >= 0) & (held <= asking) & near


def attend(
    q: jax.Array,
    keys: Slots,
    values: Slots,
    seen: jax.Array,
    sinks: jax.Array | None = None,
) -> jax.Array:
    """Softmax attention.

    Args:
      q: [B, T, heads, head_width], in the dtype of the arithmetic.
      keys: [B, kv_heads, slots, head_width].
      values: [B, kv_heads, slots, value_width].
      seen: bool [B, 1, 1, T, slots], which slots each token attends to.
      sinks: float32 [heads], logits beside the slots', which take a share and give nothing.

    Returns:
      [B, T, heads, value_width] in q's dtype.
    """
    batch, tokens, heads, width = q.shape
    kv_heads = jax.tree.leaves(keys)[0].shape[1]
    grouped = q.reshape(batch, tokens, kv_heads, heads // kv_heads, width)
    scores = jnp.einsum(
        "btkgw,bklw->bkgtl",
        grouped,
        widen(keys).astype(q.dtype),
        preferred_element_type=jnp.float32,
        precision="highest",
    )
    scores = jnp.where(seen, scores / math.sqrt(width), -jnp.inf)
    if sinks is None:
        shares = jax.nn.softmax(scores, axis=-1)
    else:
        beside = jnp.broadcast_to(sinks.reshape(kv_heads, -1, 1, 1), (*scores.shape[:-1], 1))
        shares = jax.nn.softmax(jnp.concatenate([scores, beside], axis=-1), axis=-1)[..., :-1]
    mixed = jnp.einsum(
        "bkgtl,bklw->btkgw",
        shares.astype(q.dtype),
        widen(values).astype(q.dtype),
        preferred_element_type=jnp.float32,
        precision="highest",
    )
    return mixed.astype(q.dtype).reshape(batch, tokens, heads, mixed.shape[-1])


def _natively(
    q: jax.Array, k: jax.Array, v: jax.Array, cache: KeysValues, place: Place
) -> tuple[jax.Array, KeysValues]:
    """One token through `kernels.attend`."""
    keys, values, _ = cache
    assert place.angles is not None
    assert not isinstance(keys, ScaledSlots)
    assert not isinstance(values, ScaledSlots)
    angles = place.angles[:, 0, 0]
    mixed, keys, values = kernels.attend(
        q[0, 0], k[0, 0], v[0, 0], keys, values, place.position, angles, place.layer
    )
    return mixed[None, None], KeysValues(keys, values)


def _write(slots: jax.Array, new: jax.Array, position: jax.Array) -> jax.Array:
    new = new.swapaxes(1, 2)
    if slots.shape[0] == 1:  # a plain slice update stays in place; a batched one is a scatter
        return jax.lax.dynamic_update_slice(slots, new, (0, 0, position[0], 0))
    return jax.vmap(_write_one)(slots, new, position)


def _write_one(slots: jax.Array, new: jax.Array, position: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice(slots, new, (0, position, 0))


def _write_in_ring(slots: jax.Array, new: jax.Array, position: jax.Array) -> jax.Array:
    count = slots.shape[2]
    if new.shape[1] == 1:
        return _write(slots, new, position % count)
    places = (position[:, None] + jnp.arange(new.shape[1])) % count  # [B, T]
    return jax.vmap(_scatter)(slots, places, new)


def _scatter(slots: jax.Array, places: jax.Array, new: jax.Array) -> jax.Array:
    return slots.at[:, places].set(new.swapaxes(0, 1))
