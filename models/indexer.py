"""The lightning indexer of DeepSeek sparse attention (DeepSeek-V3.2, arXiv 2512.02556).

Beside the latents, the cache holds one short key k for a token. A token's few short queries q_h,
made of the latent that its long ones are made of, score every token before it,

    score = Σ_h weight_h × max(0, q_h · k),

with weights that the token makes too, and attention reads the best tokens alone. Factors that all
scores share (1 / √width, 1 / √heads) leave the choice as it is and are left out. The published code
also turns queries and keys by a Hadamard matrix before it rounds them to fp8, which leaves the
products as they are.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from models import rope
from models.attention import Place, seen_slots, written
from models.latent_config import Latent
from models.linear import Linear
from models.norms import LayerNorm
from models.slots import Slots, slot_count, widen

_EPSILON = 1e-6  # of the keys' norm


class LightningIndexer(nnx.Module):
    """Which slots of the cache each token attends to.

    Its three products are done by latent attention, beside those of the same input.
    """

    def __init__(self, width: int, latent: Latent):
        assert latent.indexer is not None
        assert latent.query_rank is not None
        self.config = latent.indexer
        self.q = Linear(latent.query_rank, self.config.heads * self.config.width)
        self.k = Linear(width, self.config.width)
        self.k_norm = LayerNorm(self.config.width, _EPSILON, bias=True)
        self.head_weights = Linear(width, self.config.heads)

    def __call__(
        self, q: jax.Array, k: jax.Array, weights: jax.Array, slots: Slots, place: Place
    ) -> tuple[jax.Array, Slots]:
        """Choose for each of T new tokens.

        Args:
          q: [B, T, heads * width].
          k: [B, T, width], before its norm.
          weights: [B, T, heads].
          slots: keys of the tokens so far [B, 1, slots, width].
          place: where the new tokens stand.

        Returns:
          int32 slots [B, T, min(chosen, slots)], of which those behind the token are to be passed
          over, and the keys with the new tokens' in them.
        """
        batch, tokens, _ = q.shape
        q = rope.rotate(q.reshape(batch, tokens, self.config.heads, -1), place.angles)
        k = rope.rotate(self.k_norm(k)[:, :, None], place.angles)
        slots = written(slots, k, place.position)
        products = jnp.einsum(
            "bthw,blw->bthl",
            q,
            widen(slots)[:, 0].astype(q.dtype),
            precision="highest",
            preferred_element_type=jnp.float32,
        )
        scores = jnp.einsum(
            "bthl,bth->btl",
            jax.nn.relu(products),
            weights.astype(jnp.float32),
            precision="highest",
        )
        count = slot_count(slots)
        seen = seen_slots(place.position, tokens, count)[:, 0, 0]
        scores = jnp.where(seen, scores, -jnp.inf)
        _, chosen = jax.lax.top_k(scores, min(self.config.chosen, count))
        return chosen, slots
