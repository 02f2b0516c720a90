"""The dense MLP, gated (arXiv 2002.05202) or plain."""

import jax
from flax import nnx

from models.activations import ACTIVATIONS, gated
from models.config import DecoderConfig
from models.linear import Linear, products


class MLP(nnx.Module):
    """down(activation(gate(x)) × up(x)), or down(activation(up(x)))."""

    def __init__(self, config: DecoderConfig, width: int):
        if config.gated:
            self.gate = Linear(config.width, width, bias=config.mlp_bias)
        self.up = Linear(config.width, width, bias=config.mlp_bias)
        self.down = Linear(width, config.width, bias=config.mlp_bias)
        self.config = config

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map x [B, T, width] to the same shape."""
        if self.config.gated:
            gate, up = products(x, self.gate, self.up)
            hidden = gated(self.config.activation, gate, up)
        else:
            (up,) = products(x, self.up)
            hidden = ACTIVATIONS[self.config.activation](up)
        (out,) = products(hidden, self.down)
        return out
