"""The decoder, in Flax NNX: RMSNorm, grouped-query attention with RoPE, SwiGLU.

Modules hold only weights; the cache goes in and comes out, so that a step is a pure function. All
arithmetic is in float32, whatever the weights are stored in.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from models import rope
from models.attention import append_and_attend
from models.cache import KVCache
from models.config import DecoderConfig
from models.linear import Embedding, Linear, products


class RMSNorm(nnx.Module):
    """Scale to unit root mean square, then by a learnt factor (arXiv 1910.07467)."""

    def __init__(self, width: int, epsilon: float):
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalise the last axis of x."""
        mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        return x * jax.lax.rsqrt(mean_square + self.epsilon) * self.scale[...]


class Attention(nnx.Module):
    """Grouped-query attention over the cache."""

    def __init__(self, config: DecoderConfig, dtype: str):
        heads, kv = config.heads * config.head_width, config.kv_heads * config.head_width
        self.q = Linear(config.width, heads, dtype, bias=config.attention_bias)
        self.k = Linear(config.width, kv, dtype, bias=config.attention_bias)
        self.v = Linear(config.width, kv, dtype, bias=config.attention_bias)
        self.o = Linear(heads, config.width, dtype)
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_width, config.norm_epsilon)
            self.k_norm = RMSNorm(config.head_width, config.norm_epsilon)
        self.config = config

    def __call__(
        self,
        x: jax.Array,
        keys: jax.Array,
        values: jax.Array,
        position: jax.Array,
        angles: jax.Array,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Attend from x [B, T, width], appended at `position` [B]; also the layer's new cache."""
        batch, tokens, _ = x.shape
        q, k, v = (
            y.reshape(batch, tokens, -1, self.config.head_width)
            for y in products(x, self.q, self.k, self.v)
        )
        if self.config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        mixed, keys, values = append_and_attend(q, k, v, keys, values, position, angles)
        (out,) = products(mixed.reshape(batch, tokens, -1), self.o)
        return out, keys, values


class MLP(nnx.Module):
    """SwiGLU (arXiv 2002.05202)."""

    def __init__(self, config: DecoderConfig, dtype: str):
        self.gate = Linear(config.width, config.mlp_width, dtype)
        self.up = Linear(config.width, config.mlp_width, dtype)
        self.down = Linear(config.mlp_width, config.width, dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map x [B, T, width] to the same shape."""
        gate, up = products(x, self.gate, self.up)
        (out,) = products(jax.nn.silu(gate) * up, self.down)
        return out


class Layer(nnx.Module):
    """One pre-norm block."""

    def __init__(self, config: DecoderConfig, dtype: str):
        self.attention_norm = RMSNorm(config.width, config.norm_epsilon)
        self.attention = Attention(config, dtype)
        self.mlp_norm = RMSNorm(config.width, config.norm_epsilon)
        self.mlp = MLP(config, dtype)

    def __call__(
        self,
        x: jax.Array,
        keys: jax.Array,
        values: jax.Array,
        position: jax.Array,
        angles: jax.Array,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Carry x [B, T, width] through the block, and its cache on."""
        mixed, keys, values = self.attention(self.attention_norm(x), keys, values, position, angles)
        x = x + mixed
        return x + self.mlp(self.mlp_norm(x)), keys, values


class Stack(nnx.Module):
    """The layers alone: hidden states in, hidden states out."""

    def __init__(self, config: DecoderConfig, dtype: str = "float32"):
        self.config = config
        self.layers = nnx.List([Layer(config, dtype) for _ in range(config.layers)])

    def run_layers(self, x: jax.Array, cache: KVCache) -> tuple[jax.Array, KVCache]:
        """Carry x [B, T, width] through all layers; the cache holds T tokens more."""
        angles = rope.angles(self.config, cache.position[:, None] + jnp.arange(x.shape[1]))
        keys, values = [], []
        for layer, k, v in zip(self.layers, cache.keys, cache.values, strict=True):
            x, k_new, v_new = layer(x, k, v, cache.position, angles)
            keys.append(k_new)
            values.append(v_new)
        moved = cache.position + x.shape[1]
        return x, KVCache(keys=tuple(keys), values=tuple(values), position=moved)


class Decoder(Stack):
    """Embedding, layers, final norm, head; the head reads the embedding where they are tied."""

    def __init__(self, config: DecoderConfig, dtype: str = "float32"):
        super().__init__(config, dtype)
        self.embedding = Embedding(config.vocab_size, config.width, dtype)
        self.norm = RMSNorm(config.width, config.norm_epsilon)
        if not config.tied_embeddings:
            self.head = Linear(config.width, config.vocab_size, dtype)

    def logits(self, x: jax.Array) -> jax.Array:
        """Hidden states [B, T, width] to float32 logits [B, T, vocab]."""
        x = self.norm(x)
        head = self.embedding if self.config.tied_embeddings else self.head
        (out,) = products(x, head)
        return out
