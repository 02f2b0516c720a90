"""The next token from logits: greedy, or drawn after temperature, top-k and top-p.

Nothing is sorted: XLA:CPU takes longer to sort 49,152 logits than to do the rest of a decode step.
Top-k and top-p both keep the logits down to some smallest one, which is found bit by bit.
"""

import dataclasses

import jax
import jax.numpy as jnp

from models.errors import ModelError

BLOCK = 256  # logits compared at once for the largest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen; the filters apply in the order of the fields."""

    temperature: float = 0.0  # 0: the likeliest token
    # Tokens exactly as likely as the last one that is kept are kept too.
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
    if 0 < sampling.top_k < logits.shape[-1]:
        logits = _down_to(logits, jnp.ones_like(logits), sampling.top_k)
    if sampling.top_p < 1:
        logits = _down_to(logits, jax.nn.softmax(logits, axis=-1), sampling.top_p)
    return logits


def _down_to(logits: jax.Array, mass: jax.Array, target: float) -> jax.Array:
    """The largest logits whose mass together reaches the target, the others at -inf.

    Args:
      logits: float32 [B, vocab].
      mass: of each logit, at least 0.
      target: reached by as few as can be; where all of them miss it, all are kept.
    """
    bits = jax.lax.bitcast_convert_type(logits, jnp.uint32)
    # As unsigned integers, in the order of the floats: negative ones are turned round.
    order = jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))

    def with_bit(number: jax.Array, smallest: jax.Array) -> jax.Array:
        larger = smallest | (jnp.uint32(1 << 31) >> number.astype(jnp.uint32))
        reached = _sums(jnp.where(order >= larger[:, None], mass, 0.0)) >= target
        return jnp.where(reached, larger, smallest)

    smallest = jax.lax.fori_loop(0, 32, with_bit, jnp.zeros(logits.shape[0], jnp.uint32))
    return jnp.where(order >= smallest[:, None], logits, -jnp.inf)


def _sums(rows: jax.Array) -> jax.Array:
    """The sum of each row; in two stages, since XLA:CPU adds the numbers of a row one by one."""
    padded = jnp.pad(rows, ((0, 0), (0, -rows.shape[1] % BLOCK)))
    return padded.reshape(rows.shape[0], -1, BLOCK).sum(axis=1).sum(axis=1)
