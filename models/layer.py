"""One layer: attention and an MLP or experts, added to what they read through norms."""

import jax
from flax import nnx

from models.attention import Place
from models.config import DecoderConfig
from models.delta_net import DeltaNet
from models.grouped_attention import GroupedAttention
from models.latent_attention import LatentAttention
from models.layer_kinds import LayerKind
from models.mixture import Mixture
from models.mlp import MLP
from models.norms import norm
from models.slots import KeysValues

Carried = tuple[jax.Array, KeysValues]


class Layer(nnx.Module):
    """A pre-norm block; some families normalise what it adds as well."""

    def __init__(self, config: DecoderConfig, kind: LayerKind):
        self.attention_norm = norm(config)
        self.attention = _attention(config, kind)
        self.mlp_norm = norm(config)
        self.mlp = _mlp(config, kind)
        if config.output_norms:
            self.attention_output_norm = norm(config)
            self.mlp_output_norm = norm(config)
        self.config = config

    def __call__(self, x: jax.Array, cache: KeysValues, place: Place) -> Carried:
        """Carry x [B, T, width] through the block, and its cache on."""
        mixed, cache = self.attention(self.attention_norm(x), cache, place)
        if self.config.output_norms:
            mixed = self.attention_output_norm(mixed)
        x = x + mixed
        out = self.mlp(self.mlp_norm(x))
        if self.config.output_norms:
            out = self.mlp_output_norm(out)
        return x + out, cache


class ParallelLayer(nnx.Module):
    """Attention and MLP read the same hidden state, and both are added (PaLM, arXiv 2204.02311).

    They share a norm; in Falcon-40B (arXiv 2311.16867) the MLP has one of its own.
    """

    def __init__(self, config: DecoderConfig, kind: LayerKind):
        self.norm = norm(config)
        if config.parallel_norms:
            self.mlp_norm = norm(config)
        self.attention = _attention(config, kind)
        self.mlp = _mlp(config, kind)
        self.config = config

    def __call__(self, x: jax.Array, cache: KeysValues, place: Place) -> Carried:
        """Carry x [B, T, width] through the block, and its cache on."""
        y = self.norm(x)
        mixed, cache = self.attention(y, cache, place)
        if self.config.parallel_norms:
            y = self.mlp_norm(x)
        return x + mixed + self.mlp(y), cache


def layer(config: DecoderConfig, kind: LayerKind) -> Layer | ParallelLayer:
    """A layer of that kind."""
    return (ParallelLayer if config.parallel else Layer)(config, kind)


def _attention(
    config: DecoderConfig, kind: LayerKind
) -> GroupedAttention | LatentAttention | DeltaNet:
    if config.delta is not None and kind.recurrent:
        return DeltaNet(config, config.delta)
    if config.latent is not None:
        return LatentAttention(config, config.latent)
    return GroupedAttention(config, kind)


def _mlp(config: DecoderConfig, kind: LayerKind) -> MLP | Mixture:
    if config.experts is not None and kind.routed:
        return Mixture(config, config.experts)
    return MLP(config, config.mlp_width)
