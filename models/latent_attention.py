"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434).

The cache holds one latent c [rank] and one turned key for a token, whatever the number of heads:
head h's key is (K_h c, turned key) and its value V_h c. Few new tokens leave the cache as it is and
carry K_h over to the query instead, and V_h to what comes out (the absorbed form):

    (K_h c) · q = c · (K_hᵀ q),   Σ share × (V_h c) = V_h (Σ share × c)

Many new tokens expand the cache to keys and values once, which is less work for each.

With an indexer (`models.indexer`) a token attends to the tokens that it chose: the absorbed form
looks these up in the cache, the expanded one masks the others.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from models import rope
from models.attention import Place, append, attend, seen_slots
from models.config import DecoderConfig
from models.indexer import LightningIndexer
from models.latent_config import Latent
from models.linear import Linear, products
from models.norms import RMSNorm
from models.slots import KeysValues, Slots, slot_count, widen

_EPSILON = 1e-6  # of the two latents' norms, whatever the decoder's is


class LatentAttention(nnx.Module):
    """Attention over a cache of latents (its `values`) and turned keys (its `keys`)."""

    def __init__(self, config: DecoderConfig, latent: Latent):
        heads, width = config.heads, config.width
        queries = width
        if latent.query_rank is not None:
            queries = latent.query_rank
            self.q_down = Linear(width, queries)
            self.q_down_norm = RMSNorm(queries, _EPSILON)
        self.q = Linear(queries, heads * config.head_width)
        self.kv_down = Linear(width, latent.rank + latent.rope_width)
        self.kv_down_norm = RMSNorm(latent.rank, _EPSILON)
        staying = config.head_width - latent.rope_width
        self.kv = Linear(latent.rank, heads * (staying + latent.value_width))
        self.o = Linear(heads * latent.value_width, width)
        if latent.indexer is not None:
            self.indexer = LightningIndexer(width, latent)
        self.config, self.latent = config, latent

    def __call__(
        self, x: jax.Array, cache: KeysValues, place: Place
    ) -> tuple[jax.Array, KeysValues]:
        """Attend from x [B, T, width], appended at their place; also the layer's new cache."""
        batch, tokens, _ = x.shape
        q, both, *of_indexer = self._down(x)
        q = q.reshape(batch, tokens, self.config.heads, self.config.head_width)
        latent, key = jnp.split(both[:, :, None], [self.latent.rank], axis=-1)
        staying, turning = jnp.split(q, [self._staying], axis=-1)
        if self.config.query_factor != 1:
            staying, turning = (
                staying * self.config.query_factor,
                turning * self.config.query_factor,
            )
        turning, key = rope.rotate(turning, place.angles), rope.rotate(key, place.angles)
        cache = append(cache, key, self.kv_down_norm(latent), place.position)
        chosen = None
        if cache.index_keys is not None:
            index_q, index_k, weights = of_indexer
            chosen, index_keys = self.indexer(index_q, index_k, weights, cache.index_keys, place)
            cache = cache._replace(index_keys=index_keys)
        slots = slot_count(cache.keys)
        seen = seen_slots(place.position, tokens, slots)
        form = self._expanded if self._pays_to_expand(tokens, slots) else self._absorbed
        mixed = form(staying, turning, cache, seen, chosen)
        (out,) = products(mixed.reshape(batch, tokens, -1), self.o)
        return out, cache

    @property
    def _staying(self) -> int:
        return self.config.head_width - self.latent.rope_width

    def _down(self, x: jax.Array) -> tuple[jax.Array, ...]:
        """q before it is cut into heads, and the latent with the key beside it.

        Also the indexer's q, k and weights of its heads, where there is one.
        """
        if self.latent.query_rank is None:
            return products(x, self.q, self.kv_down)
        if self.latent.indexer is None:
            q, both = products(x, self.q_down, self.kv_down)
            (q,) = products(self.q_down_norm(q), self.q)
            return q, both
        own = self.indexer
        q, both, k, weights = products(x, self.q_down, self.kv_down, own.k, own.head_weights)
        q, index_q = products(self.q_down_norm(q), self.q, own.q)
        return q, both, index_q, k, weights

    def _pays_to_expand(self, tokens: int, slots: int) -> bool:
        """Whether keys and values of all slots, expanded, cost T tokens fewer multiplications."""
        rank, value = self.latent.rank, self.latent.value_width
        read = slots if self.latent.indexer is None else min(self.latent.indexer.chosen, slots)
        absorbed = tokens * read * (2 * rank + self.latent.rope_width)
        expanding = slots * rank * (self._staying + value)
        return expanding + tokens * slots * (self.config.head_width + value) < absorbed

    def _halves(self) -> tuple[jax.Array, jax.Array]:
        """K [heads, staying, rank] and V [heads, value_width, rank]."""
        kernel = self.kv.matrix.dense().reshape(self.config.heads, -1, self.latent.rank)
        return kernel[:, : self._staying], kernel[:, self._staying :]

    def _absorbed(
        self,
        staying: jax.Array,
        turning: jax.Array,
        cache: KeysValues,
        seen: jax.Array,
        chosen: jax.Array | None,
    ) -> jax.Array:
        k, v = self._halves()
        keys, latents, seen = cache.keys, cache.values, seen[:, 0]
        read, scored = "bl", "bhtl"
        if chosen is not None:  # every token has slots of its own
            keys, latents = _looked_up(keys, chosen), _looked_up(latents, chosen)
            seen = jnp.take_along_axis(seen[:, 0], chosen, axis=-1)[:, :, None]
            read, scored = "btl", "bthl"
        keys, latents = widen(keys)[:, 0], widen(latents)[:, 0]
        dtype = staying.dtype
        # Matrices first: in the other order XLA has no such product of bfloat16 on CPUs.
        carried = _einsum("hnr,bthn->bthr", k.astype(dtype), staying).astype(dtype)
        scores = _einsum(f"bthr,{read}r->{scored}", carried, latents)
        scores += _einsum(f"bthw,{read}w->{scored}", turning, keys)
        scores = jnp.where(seen, scores / math.sqrt(self.config.head_width), -jnp.inf)
        shares = jax.nn.softmax(scores, axis=-1).astype(dtype)
        mixed = _einsum(f"{scored},{read}r->bthr", shares, latents).astype(dtype)
        return _einsum("bthr,hvr->bthv", mixed, v).astype(dtype)

    def _expanded(
        self,
        staying: jax.Array,
        turning: jax.Array,
        cache: KeysValues,
        seen: jax.Array,
        chosen: jax.Array | None,
    ) -> jax.Array:
        if chosen is not None:
            seen = seen & _marked(chosen, seen.shape[-1])
        k, v = self._halves()
        latents = widen(cache.values)[:, 0].astype(staying.dtype)
        own = _einsum("blr,hnr->bhln", latents, k)
        shared = jnp.broadcast_to(widen(cache.keys), (*own.shape[:-1], self.latent.rope_width))
        return attend(
            jnp.concatenate([staying, turning], axis=-1),
            jnp.concatenate([own, shared], axis=-1),
            _einsum("blr,hvr->bhlv", latents, v),
            seen,
        )


def _looked_up(slots: Slots, chosen: jax.Array) -> Slots:
    """Of slots [B, 1, slots, width] those chosen [B, T, k]: [B, 1, T, k, width]."""

    def rows(of_one: jax.Array, which: jax.Array) -> jax.Array:
        return of_one.at[:, which].get(mode="promise_in_bounds")

    found: Slots = jax.tree.map(lambda every: jax.vmap(rows)(every, chosen), slots)
    return found


def _marked(chosen: jax.Array, slots: int) -> jax.Array:
    """Which slots were chosen [B, T, k]: bool [B, 1, 1, T, slots]."""

    def row(which: jax.Array) -> jax.Array:
        return jnp.zeros(slots, bool).at[which].set(True, mode="promise_in_bounds")

    return jax.vmap(jax.vmap(row))(chosen)[:, None, None]


def _einsum(how: str, left: jax.Array, right: jax.Array) -> jax.Array:
    """In the left operand's dtype, with float32 sums."""
    return jnp.einsum(
        how,
        left,
        right.astype(left.dtype),
        precision="highest",
        preferred_element_type=jnp.float32,
    )
