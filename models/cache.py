"""The KV cache: fixed shapes, so that one compiled step serves every token.

A sequence's tokens take slots 0, 1, 2, … of its row, and `position` is how many it holds. A step
writes at `position` and moves it on; slots behind it are never read, so taking tokens back (as
speculative decoding does with rejected ones) is only a smaller `position`.

Layers with a window need not keep what lies before it. A cache that is told how many tokens come
`at_once` gives them rings of `window + at_once - 1` slots, in which old tokens are overwritten;
then no more than the last `at_once` tokens can be taken back.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from models.config import DecoderConfig
from models.delta_state import is_state, new_state
from models.errors import ModelError
from models.layer_kinds import LayerKind
from models.slots import KeysValues, Slots, new_slots, slot_count


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class KVCache:
    """Keys and values of every layer, and how many tokens each sequence holds.

    For scanned layers there is one leaf for each group of layers, stacked on a leading axis.
    """

    keys: tuple[Slots, ...]  # per layer [batch, kv_heads, slots, head_width]
    values: tuple[Slots, ...]  # per layer the same; latents [batch, 1, slots, rank] for MLA
    position: jax.Array  # int32 [batch], tokens held
    index_keys: tuple[Slots, ...] = ()  # [batch, 1, slots, width], where layers have an indexer
    at_once: int | None = dataclasses.field(default=None, metadata={"static": True})

    @property
    def length(self) -> int:
        """Slots per sequence, in the layers that have the most."""
        return max(slot_count(keys) for keys in self.keys if not is_state(keys))

    def rewind(self, position: jax.Array) -> "KVCache":
        """The same cache, holding only the first `position` [batch] tokens.

        A state by the delta rule cannot give back tokens: it is kept as it is.
        """
        return dataclasses.replace(self, position=position.astype(jnp.int32))

    @property
    def layers(self) -> list[KeysValues]:
        """What each layer, or each group of scanned ones, holds."""
        return list(map(KeysValues, self.keys, self.values, *filter(None, [self.index_keys])))

    def moved(self, layers: Sequence[KeysValues], tokens: int) -> "KVCache":
        """The cache after `tokens` more, which these layers hold."""
        return dataclasses.replace(
            self,
            keys=tuple(layer.keys for layer in layers),
            values=tuple(layer.values for layer in layers),
            index_keys=tuple(s for layer in layers if (s := layer.index_keys) is not None),
            position=self.position + tokens,
        )

    def check_room(self, tokens: int) -> None:
        """Raises ModelError if so many tokens at once would overwrite what they attend to."""
        if self.at_once is not None and tokens > self.at_once:
            raise ModelError(
                f"cache: {tokens} tokens at once, and it was made for {self.at_once}; "
                f"pass fewer, or make the cache with at_once={tokens}"
            )


def new_cache(
    config: DecoderConfig,
    *,
    batch: int,
    length: int,
    dtype: jax.typing.DTypeLike = jnp.float32,
    at_once: int | None = None,
    scanned: bool = False,
) -> KVCache:
    """An empty cache of `length` slots for each of `batch` sequences.

    `dtype`: float32, bfloat16, float8_e4m3fn, or int8 (which has a scale for each vector).
    `at_once`: the most tokens that a step will append; lets layers with a window keep little more
    than the window. `scanned`: for weights whose layers are stacked.
    """
    if batch < 1 or length < 1:
        raise ModelError(f"cache: batch ({batch}) and length ({length}) must be at least 1")
    if at_once is not None and at_once < 1:
        raise ModelError(f"cache: at_once ({at_once}) must be at least 1")

    def slots(kind: LayerKind) -> int:
        if kind.window is None or at_once is None:
            return length
        return min(length, kind.window + at_once - 1)

    layers: list[tuple[tuple[int, ...], LayerKind]]
    if scanned:
        groups = [group for run in config.runs for group in run.groups]
        layers = [((len(group.layers), batch), group.kind) for group in groups]
    else:
        layers = [((batch,), kind) for kind in config.kinds]
    heads, widths = config.kv_heads, [config.head_width, config.head_width]
    if (latent := config.latent) is not None:
        heads, widths = 1, [latent.rope_width, latent.rank]
        widths += [] if latent.indexer is None else [latent.indexer.width]

    def one(outer: tuple[int, ...], kind: LayerKind) -> KeysValues:
        if config.delta is not None and kind.recurrent:
            return new_state(config.delta, outer, dtype)
        n = slots(kind)
        return KeysValues(*(new_slots((*outer, heads, n, width), dtype) for width in widths))

    position = jnp.zeros((batch,), jnp.int32)
    empty = KVCache(keys=(), values=(), position=position, at_once=at_once)
    return empty.moved([one(outer, kind) for outer, kind in layers], 0)
