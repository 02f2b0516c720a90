"""The router of a mixture of experts: which experts a token goes to, with what shares.

Scores are a softmax or sigmoids of the router's products; the best k experts are taken. DeepSeek-V3
(arXiv 2412.19437) adds a learnt correction to the scores for choosing alone, and takes only experts
of the best groups, a group being as good as its two best experts (V2: as its best one).
"""

import jax
import jax.numpy as jnp
from flax import nnx

from models.config import DecoderConfig
from models.experts_config import Experts


class Router(nnx.Module):
    """Tokens to experts."""

    def __init__(self, config: DecoderConfig, experts: Experts):
        self.kernel = nnx.Param(jnp.zeros((experts.count, config.width), jnp.float32))
        if experts.bias:
            self.bias = nnx.Param(jnp.zeros((experts.count,), jnp.float32))
        if experts.corrected:
            self.correction = nnx.Param(jnp.zeros((experts.count,), jnp.float32))
        self.experts = experts

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """For x [N, width]: int32 experts [N, k] and their float32 shares [N, k]."""
        experts = self.experts
        logits = jnp.einsum(
            "nw,ew->ne",
            x.astype(jnp.float32),
            self.kernel[...].astype(jnp.float32),
            precision="highest",
        )
        if experts.bias:
            logits = logits + self.bias[...]
        sigmoid = experts.scores == "sigmoid"
        scores = jax.nn.sigmoid(logits) if sigmoid else jax.nn.softmax(logits, axis=-1)
        merit = scores + self.correction[...] if experts.corrected else scores
        if experts.groups > 1:
            merit = self._in_the_best_groups(merit)
        shares, chosen = jax.lax.top_k(merit, experts.chosen)
        if experts.corrected:
            shares = jnp.take_along_axis(scores, chosen, axis=-1)
        if experts.normalised:
            shares = shares / jnp.sum(shares, axis=-1, keepdims=True)
        return chosen, shares if experts.factor == 1 else shares * experts.factor

    def _in_the_best_groups(self, merit: jax.Array) -> jax.Array:
        """The merits [N, E], with -inf for the experts of the other groups."""
        groups = merit.reshape(*merit.shape[:-1], self.experts.groups, -1)
        leading, _ = jax.lax.top_k(groups, self.experts.group_best)
        _, best = jax.lax.top_k(leading.sum(-1), self.experts.chosen_groups)
        kept = (jnp.arange(self.experts.groups) == best[..., None]).any(-2)
        return jnp.where(kept[..., None], groups, -jnp.inf).reshape(merit.shape)
