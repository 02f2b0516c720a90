"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434).

The cache holds one latent c [rank] and one turned key for a token, whatever the number of heads:
head h's key is (K_h c, turned key) and its value V_h c. Few new tokens leave the cache as it is and
carry K_h over to the query instead, and V_h to what comes out (the absorbed form):

    (K_h c) · q = c · (K_hᵀ q),   Σ share × (V_h c) = V_h (Σ share × c)

Many new tokens expand the cache to keys and values once, which is less work for each.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from models import rope
from models.attention import Place, append, attend, seen_slots
from models.config import DecoderConfig
from models.latent_config import Latent
from models.linear import Linear, products
from models.norms import RMSNorm
from models.slots import KeysValues, slot_count, widen

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
        self.config, self.latent = config, latent

    def __call__(
        self, x: jax.Array, cache: KeysValues, place: Place
    ) -> tuple[jax.Array, KeysValues]:
        """Attend from x [B, T, width], appended at their place; also the layer's new cache."""
        batch, tokens, _ = x.shape
        q, both = self._down(x)
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
        seen = seen_slots(place.position, tokens, slot_count(cache.keys))
        form = self._expanded if self._pays_to_expand(tokens) else self._absorbed
        mixed = form(staying, turning, cache, seen)
        (out,) = products(mixed.reshape(batch, tokens, -1), self.o)
        return out, cache

    @property
    def _staying(self) -> int:
        return self.config.head_width - self.latent.rope_width

    def _down(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """q before it is cut into heads, and the latent with the key beside it."""
        if self.latent.query_rank is None:
            q, both = products(x, self.q, self.kv_down)
            return q, both
        q, both = products(x, self.q_down, self.kv_down)
        (q,) = products(self.q_down_norm(q), self.q)
        return q, both

    def _pays_to_expand(self, tokens: int) -> bool:
        """Whether expanding a slot costs less than T tokens save on it, in multiplications."""
        rank, value = self.latent.rank, self.latent.value_width
        expanding = rank * (self._staying + value)
        saved = 2 * rank - self._staying - value
        return tokens * saved > expanding

    def _halves(self) -> tuple[jax.Array, jax.Array]:
        """K [heads, staying, rank] and V [heads, value_width, rank]."""
        kernel = self.kv.matrix.dense().reshape(self.config.heads, -1, self.latent.rank)
        return kernel[:, : self._staying], kernel[:, self._staying :]

    def _absorbed(
        self, staying: jax.Array, turning: jax.Array, cache: KeysValues, seen: jax.Array
    ) -> jax.Array:
        k, v = self._halves()
        latents = widen(cache.values)[:, 0]
        dtype = staying.dtype
        carried = _einsum("bthn,hnr->bthr", staying, k).astype(dtype)
        scores = _einsum("bthr,blr->bhtl", carried, latents)
        scores += _einsum("bthw,blw->bhtl", turning, widen(cache.keys)[:, 0])
        scores = jnp.where(seen[:, 0], scores / math.sqrt(self.config.head_width), -jnp.inf)
        shares = jax.nn.softmax(scores, axis=-1).astype(dtype)
        mixed = _einsum("bhtl,blr->bthr", shares, latents).astype(dtype)
        return _einsum("bthr,hvr->bthv", mixed, v).astype(dtype)

    def _expanded(
        self, staying: jax.Array, turning: jax.Array, cache: KeysValues, seen: jax.Array
    ) -> jax.Array:
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


def _einsum(how: str, left: jax.Array, right: jax.Array) -> jax.Array:
    """In the left operand's dtype, with float32 sums."""
    return jnp.einsum(
        how,
        left,
        right.astype(left.dtype),
        precision="highest",
        preferred_element_type=jnp.float32,
    )
