"""The next token from logits: greedy, or drawn after temperature, top-k and top-p."""

import dataclasses

import jax
import jax.numpy as jnp

from models.errors import ModelError

BLOCK = 256  # logits compared at once for the largest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen; the filters apply in the order of the fields."""

    temperature: float = 0.0  # 0: the likeliest token
    top_k: int = 0  # draw from the k likeliest; 0: from all
    top_p: float = 1.0  # draw from the fewest tokens whose shares reach p
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ModelError(f"temperature must be 0 or more, not {self.temperature}")
        if self.top_k < 0:
            raise ModelError(f"top_k must be 0 (all tokens) or more, not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ModelError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if not 0 <= self.seed < 2**32:  # what jax.random.key takes without 64-bit integers
            raise ModelError(f"seed must be from 0 to {2**32 - 1}, not {self.seed}")


def choose(sampling: Sampling, logits: jax.Array, position: jax.Array) -> jax.Array:
    """Choose a token for each sequence.

    Args:
      sampling: static.
      logits: float32 [B, vocab].
      position: int32 [B], the place of the token to come; with the seed and the row it fixes the
        draw, so a run can be repeated and does not depend on how its steps were grouped.

    Returns:
      int32 [B].
    """
    if sampling.temperature == 0:
        return _likeliest(logits)
    rows = jnp.arange(logits.shape[0])
    seed = jax.random.key(sampling.seed)
    keys = jax.vmap(lambda r, p: jax.random.fold_in(jax.random.fold_in(seed, r), p))(rows, position)
    kept = _filtered(sampling, logits / sampling.temperature)
    return jax.vmap(jax.random.categorical)(keys, kept).astype(jnp.int32)


def _likeliest(logits: jax.Array) -> jax.Array:
    """The first of the largest; in two stages, since XLA:CPU's argmax goes one by one."""
    rows, vocab = logits.shape
    blocks = jnp.pad(logits, ((0, 0), (0, -vocab % BLOCK)), constant_values=-jnp.inf)
    blocks = blocks.reshape(rows, -1, BLOCK)
    block = jnp.argmax(blocks.max(axis=-1), axis=-1)
    within = jnp.argmax(jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0], axis=-1)
    return (block * BLOCK + within).astype(jnp.int32)


def _filtered(sampling: Sampling, logits: jax.Array) -> jax.Array:
    """Logits with those of tokens that may not be drawn at -inf."""
    vocab = logits.shape[-1]
    if 0 < sampling.top_k < vocab:
        smallest_kept = jax.lax.top_k(logits, sampling.top_k)[0][:, -1:]
        logits = jnp.where(logits < smallest_kept, -jnp.inf, logits)
    if sampling.top_p < 1:
        order = jnp.argsort(-logits, axis=-1)
        shares = jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1), axis=-1)
        before = jnp.cumsum(shares, axis=-1) - shares  # of the likelier tokens; 0 for the first
        rank = jnp.argsort(order, axis=-1)
        kept = jnp.take_along_axis(before < sampling.top_p, rank, axis=-1)
        logits = jnp.where(kept, logits, -jnp.inf)
    return logits
