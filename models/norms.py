"""Normalisation over the last axis, in float32 and with learnt float32 scales.

One token of one sequence goes through `kernels.rms_norm` where that is built.
"""

import jax
import jax.numpy as jnp
from flax import nnx

import kernels
from models.config import DecoderConfig


def unit_rms(x: jax.Array, epsilon: float) -> jax.Array:
    """Scale the last axis of x to unit root mean square, in float32."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + epsilon)


class RMSNorm(nnx.Module):
    """Scale to unit root mean square, then by a learnt factor (arXiv 1910.07467)."""

    def __init__(self, width: int, epsilon: float):
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalise the last axis of x."""
        if x.shape[:2] == (1, 1) and x.dtype == jnp.float32 and kernels.native():
            return kernels.rms_norm(x, self.scale[...], self.epsilon)
        return (unit_rms(x, self.epsilon) * self.scale[...]).astype(x.dtype)


class LayerNorm(nnx.Module):
    """Shift to mean 0 and scale to variance 1, then by a learnt factor, and shift (1607.06450)."""

    def __init__(self, width: int, epsilon: float, *, bias: bool):
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))
        if bias:
            self.bias = nnx.Param(jnp.zeros((width,), jnp.float32))
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalise the last axis of x."""
        wide = x.astype(jnp.float32)
        wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        y = wide * jax.lax.rsqrt(variance + self.epsilon) * self.scale[...]
        return (y + self.bias[...] if hasattr(self, "bias") else y).astype(x.dtype)


def norm(config: DecoderConfig) -> RMSNorm | LayerNorm:
    """The norm of hidden states that this decoder has."""
    if config.layer_norm:
        return LayerNorm(config.width, config.norm_epsilon, bias=config.norm_bias)
    return RMSNorm(config.width, config.norm_epsilon)
