"""The decoder, in Flax NNX: embedding, layers, final norm, head.

Modules hold only weights; the cache goes in and comes out, so that a step is a pure function.
Hidden states and the operands of products are in `DecoderConfig.arithmetic`, whatever the weights
are stored in; norms, softmax, sums within products and logits are in float32.

The layers are a list, each with weights of its own; or scanned, with the weights of all layers of
a group (`models.layer_kinds`) stacked on a leading axis, so that a program's size, and the time to
trace it, does not grow with their number. Both compute the same. A scan slices each layer out of
the stacks; for one token native products can read them where they lie (`in_place`).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from models import rope
from models.attention import Place, is_native
from models.cache import KVCache
from models.config import DecoderConfig
from models.layer import Layer, ParallelLayer, layer
from models.layer_kinds import Run
from models.linear import Embedding, Linear, products
from models.norms import norm
from models.of_stack import OfStack
from models.rope_config import Rope
from models.slots import KeysValues

Places = dict[Rope | None, Place]


class Stack(nnx.Module):
    """The layers alone: hidden states in, hidden states out."""

    def __init__(self, config: DecoderConfig, *, scanned: bool = False):
        self.config, self.scanned = config, scanned
        self.layers: Any
        if not scanned:
            self.layers = nnx.List([layer(config, kind) for kind in config.kinds])
        elif len(groups := [group for run in config.runs for group in run.groups]) == 1:
            self.layers = layer(config, groups[0].kind)
        else:
            self.layers = nnx.Dict({g.name: layer(config, g.kind) for g in groups})

    def run_layers(
        self,
        x: jax.Array,
        cache: KVCache,
        lengths: jax.Array | None = None,
        *,
        in_place: bool = False,
    ) -> tuple[jax.Array, KVCache]:
        """Carry x [B, T, width] through all layers; the cache holds T tokens more.

        lengths: int32 [B], how many of each row's tokens are real; states that recur are carried
        over those alone. None: all. in_place: see `models.steps.decode_step`.
        """
        cache.check_room(x.shape[1])
        positions = cache.position[:, None] + jnp.arange(x.shape[1])
        ropes = {kind.rope for kind in self.config.kinds}
        # Worked out once for all layers of a rope, outside of any scan.
        places = {
            r: Place(cache.position, None if r is None else rope.angles(r, positions), lengths)
            for r in ropes
        }
        caches = cache.layers
        after: list[KeysValues] = []
        if self.scanned:
            for run in self.config.runs:
                mine, caches = caches[: len(run.groups)], caches[len(run.groups) :]
                scan = self._scan
                if in_place and self._can_stay(run, x, mine, places):
                    scan = self._scan_in_place
                x, updated = scan(run, x, mine, places)
                after += updated
        else:
            for one, kind, held in zip(self.layers, self.config.kinds, caches, strict=True):
                x, new = one(x, held, places[kind.rope])
                after.append(new)
        return x, cache.moved(after, x.shape[1])

    def _scan(
        self, run: Run, x: jax.Array, caches: list[KeysValues], places: Places
    ) -> tuple[jax.Array, list[KeysValues]]:
        """Go through the repeats of a run, whose weights and caches are stacked."""
        split = self._split(run)

        def repeat(x, stacked):  # type: ignore[no-untyped-def]
            updated = []
            parts = zip(split, run.groups, stacked, strict=True)
            for (structure, _), group, (state, cache) in parts:
                one = nnx.merge(structure, state)
                x, new = one(x, cache, places[group.kind.rope])
                updated.append(new)
            return x, updated

        states = [state for _, state in split]
        x, updated = jax.lax.scan(repeat, x, list(zip(states, caches, strict=True)))
        return x, updated

    def _scan_in_place(
        self, run: Run, x: jax.Array, caches: list[KeysValues], places: Places
    ) -> tuple[jax.Array, list[KeysValues]]:
        """The same, with neither weights nor caches sliced out of their stacks."""
        split = self._split(run)

        def repeat(carry, number):  # type: ignore[no-untyped-def]
            x, caches = carry
            updated = []
            for (structure, stacks), group, cache in zip(split, run.groups, caches, strict=True):
                state = jax.tree.map(lambda stack: OfStack(stack, number), stacks)
                one = nnx.merge(structure, state)
                x, new = one(x, cache, places[group.kind.rope]._replace(layer=number))
                updated.append(new)
            return (x, updated), None

        (x, updated), _ = jax.lax.scan(
            repeat, (x, caches), jnp.arange(run.repeats, dtype=jnp.int32)
        )
        return x, updated

    def _split(self, run: Run) -> list[tuple[Any, Any]]:
        """The structure and the stacked weights of each group's layers."""
        alone = isinstance(self.layers, Layer | ParallelLayer)
        return [nnx.split(self.layers if alone else self.layers[g.name]) for g in run.groups]

    def _can_stay(self, run: Run, x: jax.Array, caches: list[KeysValues], places: Places) -> bool:
        """Whether native products would take one token through these layers."""
        config = self.config
        plain = config.latent is None and config.delta is None and not config.sinks
        return (
            plain
            and x.shape[:2] == (1, 1)
            and x.dtype == jnp.float32
            and all(
                group.kind.window is None
                and is_native(cache, places[group.kind.rope], config.head_width)
                for group, cache in zip(run.groups, caches, strict=True)
            )
        )


class Decoder(Stack):
    """Embedding, layers, final norm, head; the head reads the embedding where they are tied."""

    def __init__(self, config: DecoderConfig, *, scanned: bool = False):
        super().__init__(config, scanned=scanned)
        self.embedding = Embedding(config.vocab_size, config.width)
        self.norm = norm(config)
        if not config.tied_embeddings:
            self.head = Linear(config.width, config.vocab_size)

    def embed(self, tokens: jax.Array) -> jax.Array:
        """Token ids [B, T] to hidden states [B, T, width]."""
        x = self.embedding(tokens)
        factor = self.config.embedding_factor
        x = x if factor == 1 else x * jnp.float32(factor)
        return x.astype(self.config.arithmetic)

    def logits(self, x: jax.Array) -> jax.Array:
        """Hidden states [B, T, width] to float32 logits [B, T, vocab]."""
        x = self.norm(x)
        head = self.embedding if self.config.tied_embeddings else self.head
        (out,) = products(x, head)
        return out.astype(jnp.float32)
