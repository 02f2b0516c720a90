"""Gated delta networks (arXiv 2412.06464), as Qwen3-Next and Qwen3.5 have them.

Each head of values keeps a matrix S [key_width, value_width]. A token with key k, value v and query
q (k and q of length 1) lets it decay by a factor a, puts in what is missing for S to give v at k,
in the share b, and reads it at q:

    S' = a·S + k ⊗ b·(v - a·Sᵀk)        y = S'ᵀq / √key_width

Before that q, k and v go through a causal convolution over the last few tokens, channel by channel,
and SiLU; after it y is normalised in each head and gated. Several tokens at once go through the
rule one after the other: what is computed is the same, and slow for long prompts.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from models.attention import Place
from models.config import DecoderConfig
from models.delta_config import DeltaRule
from models.delta_state import Window
from models.linear import Linear, products
from models.norms import RMSNorm
from models.slots import KeysValues

_SMALLEST = 1e-6  # added to the squared length of keys and queries


class DeltaNet(nnx.Module):
    """In the place of attention: q, k, v, their convolutions, decay, share, gate, and output."""

    def __init__(self, config: DecoderConfig, rule: DeltaRule):
        keys, values = rule.key_heads * rule.key_width, rule.value_heads * rule.value_width
        self.q, self.k = Linear(config.width, keys), Linear(config.width, keys)
        self.v, self.gate = Linear(config.width, values), Linear(config.width, values)
        self.decay = Linear(config.width, rule.value_heads)
        self.share = Linear(config.width, rule.value_heads)
        self.q_taps = nnx.Param(jnp.zeros((keys, rule.taps), jnp.float32))
        self.k_taps = nnx.Param(jnp.zeros((keys, rule.taps), jnp.float32))
        self.v_taps = nnx.Param(jnp.zeros((values, rule.taps), jnp.float32))
        self.log_rate = nnx.Param(jnp.zeros((rule.value_heads,), jnp.float32))
        self.decay_bias = nnx.Param(jnp.zeros((rule.value_heads,), jnp.float32))
        self.norm = RMSNorm(rule.value_width, config.norm_epsilon)
        self.o = Linear(values, config.width)
        self.rule = rule

    def __call__(
        self, x: jax.Array, cache: KeysValues, place: Place
    ) -> tuple[jax.Array, KeysValues]:
        """Carry the layer's state over x [B, T, width]; also what it is then."""
        batch, tokens, _ = x.shape
        rule, group = self.rule, self.rule.value_heads // self.rule.key_heads
        q, k, v, gate = products(x, self.q, self.k, self.v, self.gate)
        decay, share = products(x, self.decay, self.share)
        held: Any = cache.keys
        matrices: Any = cache.values
        mixed, kept = zip(
            *(
                _convolved(new, old, taps[...], place.lengths)
                for new, old, taps in zip(
                    (q, k, v), held, (self.q_taps, self.k_taps, self.v_taps), strict=True
                )
            ),
            strict=True,
        )
        q, k = (y.reshape(batch, tokens, rule.key_heads, rule.key_width) for y in mixed[:2])
        v = mixed[2].reshape(batch, tokens, rule.key_heads, group, rule.value_width)
        rate = jnp.exp(self.log_rate[...])
        softened = jax.nn.softplus(decay.astype(jnp.float32) + self.decay_bias[...])
        decay, share = jnp.exp(-rate * softened), jax.nn.sigmoid(share.astype(jnp.float32))
        if place.lengths is not None:  # tokens beyond a row's own leave its state as it is
            real = (jnp.arange(tokens) < place.lengths[:, None])[..., None]
            decay, share = jnp.where(real, decay, 1.0), jnp.where(real, share, 0.0)
        decay, share = (y.reshape(batch, tokens, rule.key_heads, group) for y in (decay, share))
        y, state = _recurred(matrices, _unit(q) * rule.key_width**-0.5, _unit(k), v, decay, share)
        y = self.norm(y.astype(x.dtype))
        y = y.reshape(batch, tokens, -1).astype(jnp.float32) * jax.nn.silu(gate.astype(jnp.float32))
        (out,) = products(y.astype(x.dtype), self.o)
        return out, KeysValues(Window(*kept), state)  # type: ignore[arg-type]


def _convolved(
    new: jax.Array, held: jax.Array, taps: jax.Array, lengths: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """SiLU of the convolution, float32 [B, T, channels], and the window after it."""
    tokens, before = new.shape[1], held.shape[1]
    new = new.astype(held.dtype)
    seen = jnp.concatenate((held, new), axis=1)
    wide = taps.astype(jnp.float32)
    out = sum(seen[:, n : n + tokens].astype(jnp.float32) * wide[:, n] for n in range(before + 1))
    if lengths is None:
        kept = jnp.concatenate((held[:, tokens:], new[:, -before:]), axis=1)
    else:
        last = lengths[:, None] + jnp.arange(before)
        kept = jnp.take_along_axis(seen, last[..., None], axis=1)
    return jax.nn.silu(jnp.asarray(out)), kept


def _unit(x: jax.Array) -> jax.Array:
    wide = x.astype(jnp.float32)
    return wide * jax.lax.rsqrt(jnp.sum(jnp.square(wide), axis=-1, keepdims=True) + _SMALLEST)


def _recurred(
    state: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array, decay: jax.Array, share: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The rule over T tokens.

    Args:
      state: float32 [B, G, R, key_width, value_width]: R heads of values for each of G of keys.
      q, k: float32 [B, T, G, key_width].
      v: float32 [B, T, G, R, value_width].
      decay, share: float32 [B, T, G, R].

    Returns:
      float32 [B, T, G, R, value_width], and the state after the last token.
    """

    def token(state: jax.Array, now: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
        q, k, v, decay, share = now
        known = jnp.einsum("bgrkv,bgk->bgrv", state, k, precision="highest")
        missing = share[..., None] * (v - decay[..., None] * known)
        put = k[:, :, None, :, None] * missing[..., None, :]
        state = decay[..., None, None] * state + put
        return state, jnp.einsum("bgrkv,bgk->bgrv", state, q, precision="highest")

    if q.shape[1] == 1:
        state, y = token(state, [z[:, 0] for z in (q, k, v, decay, share)])
        return y[:, None], state
    state, y = jax.lax.scan(token, state, [z.swapaxes(0, 1) for z in (q, k, v, decay, share)])
    return y.swapaxes(0, 1), state
