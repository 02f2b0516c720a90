"""One layer: attention and an MLP or experts, each behind a norm and added to what it read."""

import jax
from flax import nnx

from models.config import DecoderConfig
from models.grouped_attention import GroupedAttention
from models.latent_attention import LatentAttention
from models.layer_kinds import LayerKind
from models.mixture import Mixture
from models.mlp import MLP
from models.norms import norm


class Layer(nnx.Module):
    """A pre-norm block; some families normalise what it adds as well."""

    def __init__(self, config: DecoderConfig, kind: LayerKind):
        self.attention_norm = norm(config)
        self.attention = (
            GroupedAttention(config, kind)
            if config.latent is None
            else LatentAttention(config, config.latent, kind)
        )
        self.mlp_norm = norm(config)
        self.mlp = (
            Mixture(config, config.experts)
            if config.experts is not None and kind.routed
            else MLP(config, config.mlp_width)
        )
        if config.output_norms:
            self.attention_output_norm = norm(config)
            self.mlp_output_norm = norm(config)
        self.config = config

    def __call__(
        self, x: jax.Array, keys: jax.Array, values: jax.Array, position: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Carry x [B, T, width] through the block, and its cache on."""
        mixed, keys, values = self.attention(self.attention_norm(x), keys, values, position)
        if self.config.output_norms:
            mixed = self.attention_output_norm(mixed)
        x = x + mixed
        out = self.mlp(self.mlp_norm(x))
        if self.config.output_norms:
            out = self.mlp_output_norm(out)
        return x + out, keys, values
