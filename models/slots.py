"""What the slots of a KV cache hold: floating-point numbers, or int8 with a scale for each vector.

`new_slots` makes them, `encode` rounds new keys or values to what the slots hold, and `widen` gives
float32 again. float8 has no infinity to overflow to, so larger numbers become its largest.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ScaledSlots:
    """int8 vectors [..., slots, width], symmetric, and the float32 scale of each."""

    numbers: jax.Array
    scale: jax.Array  # [..., slots, 1]


_LARGEST = {"float8_e4m3fn": 448.0, "float8_e5m2": 57344.0}

Slots = jax.Array | ScaledSlots


class KeysValues(NamedTuple):
    """One layer's cache, [B, kv_heads, slots, width] each; latent attention keeps its own two."""

    keys: Slots
    values: Slots
    index_keys: Slots | None = None  # [B, 1, slots, width], of an indexer where there is one


def new_slots(shape: tuple[int, ...], dtype: jax.typing.DTypeLike) -> Slots:
    """Empty slots [..., slots, width] of a floating-point type or int8."""
    if jnp.dtype(dtype) == jnp.int8:
        return ScaledSlots(jnp.zeros(shape, jnp.int8), jnp.zeros((*shape[:-1], 1), jnp.float32))
    return jnp.zeros(shape, dtype)


def slot_count(slots: Slots) -> int:
    """How many there are."""
    return int(jax.tree.leaves(slots)[0].shape[-2])


def encode(new: jax.Array, slots: Slots) -> Slots:
    """New vectors [..., width] as these slots hold theirs."""
    if isinstance(slots, ScaledSlots):
        new = new.astype(jnp.float32)
        scale = jnp.max(jnp.abs(new), axis=-1, keepdims=True) / 127
        rounded = jnp.round(new / jnp.where(scale > 0, scale, 1))
        return ScaledSlots(rounded.astype(jnp.int8), scale)
    if largest := _LARGEST.get(slots.dtype.name):
        new = jnp.clip(new, -largest, largest)
    return new.astype(slots.dtype)


def widen(slots: Slots) -> jax.Array:
    """In float32."""
    if isinstance(slots, ScaledSlots):
        return slots.numbers.astype(jnp.float32) * slots.scale
    return slots.astype(jnp.float32)
