"""Grouped-query attention (arXiv 2305.13245) over the KV cache."""

import jax
import jax.numpy as jnp
from flax import nnx

from models.attention import Place, append_and_attend
from models.config import DecoderConfig
from models.layer_kinds import LayerKind
from models.linear import Linear, products
from models.norms import RMSNorm, unit_rms
from models.slots import KeysValues


class GroupedAttention(nnx.Module):
    """Several query heads share each head of keys and values."""

    def __init__(self, config: DecoderConfig, kind: LayerKind):
        heads, kv = config.heads * config.head_width, config.kv_heads * config.head_width
        self.q = Linear(config.width, heads, bias=config.attention_bias)
        self.k = Linear(config.width, kv, bias=config.attention_bias)
        self.v = Linear(config.width, kv, bias=config.attention_bias)
        if config.output_gate:
            self.gate = Linear(config.width, heads)
        self.o = Linear(heads, config.width, bias=config.output_bias)
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_width, config.norm_epsilon)
            self.k_norm = RMSNorm(config.head_width, config.norm_epsilon)
        if config.qk_norm_over_heads:
            self.q_norm = RMSNorm(heads, config.norm_epsilon)
            self.k_norm = RMSNorm(kv, config.norm_epsilon)
        if config.sinks:
            self.sinks = nnx.Param(jnp.zeros((config.heads,), jnp.float32))
        self.config, self.kind = config, kind

    def __call__(
        self, x: jax.Array, cache: KeysValues, place: Place
    ) -> tuple[jax.Array, KeysValues]:
        """Attend from x [B, T, width], appended at their place; also the layer's new cache."""
        batch, tokens, _ = x.shape
        gates = [self.gate] if self.config.output_gate else []
        q, k, v, *gate = products(x, self.q, self.k, self.v, *gates)
        if self.config.qk_norm_over_heads:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (y.reshape(batch, tokens, -1, self.config.head_width) for y in (q, k, v))
        if self.config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.config.query_factor != 1:
            q = q * self.config.query_factor
        if self.config.plain_qk_norm and self.kind.rope is not None:
            q, k = (unit_rms(y, self.config.norm_epsilon).astype(x.dtype) for y in (q, k))
        if self.config.query_growth and self.kind.rope is None:
            growth = self._growth(place.position[:, None] + jnp.arange(tokens))[..., None, None]
            q = (q * growth).astype(x.dtype)
        mixed, cache = append_and_attend(
            q,
            k,
            v,
            cache,
            place,
            window=self.kind.window,
            chunked=self.kind.chunked,
            sinks=self.sinks[...] if self.config.sinks else None,
        )
        mixed = mixed.reshape(batch, tokens, -1)
        if gate:
            mixed = mixed * jax.nn.sigmoid(gate[0])
        (out,) = products(mixed, self.o)
        return out, cache

    def _growth(self, positions: jax.Array) -> jax.Array:
        """How much longer queries are at these positions (arXiv 2501.19399)."""
        steps = jnp.floor((positions + 1) / self.config.query_growth_tokens)
        return 1 + self.config.query_growth * jnp.log1p(steps)
