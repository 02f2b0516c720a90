"""Streaming generation: prefill in chunks of a few fixed sizes, then one step per token.

What runs is a `Program`: two callables that hold the weights already. `program` makes it from a
weights tree; whoever wants the weights somewhere else (another memory, another device) makes it
from the same jitted functions.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models import steps
from models.cache import KVCache, new_cache
from models.config import DecoderConfig
from models.errors import ModelError
from models.sampling import Sampling, choose
from models.steps import Weights
from models.structure import is_scanned

CHUNK = 1024  # tokens of a prompt taken at once; attention's scores are CHUNK × cache length


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """Prefill and step with the weights inside; both donate the cache that they are given."""

    prefill: Callable[[KVCache, jax.Array, jax.Array], tuple[jax.Array, KVCache]]
    """(cache, tokens [B, T], lengths [B]) → the token after each row's last, [B], and the cache."""
    step: Callable[[KVCache, jax.Array], tuple[jax.Array, KVCache]]
    """(cache, tokens [B]) → the next tokens, [B], and the cache."""
    cache_dtype: jax.typing.DTypeLike = jnp.float32
    """What a cache holds where the caller names nothing else: float32 or bfloat16."""
    scanned: bool = False
    """Whether the layers' weights are stacked, and so the cache."""


def prefill_token(
    config: DecoderConfig,
    sampling: Sampling,
    weights: Weights,
    cache: KVCache,
    tokens: jax.Array,
    lengths: jax.Array,
) -> tuple[jax.Array, KVCache]:
    """Prefill tokens [B, T] and choose the next token of every row: int32 [B]."""
    logits, cache = steps.prefill(config, weights, cache, tokens, lengths)
    return choose(sampling, logits, cache.position), cache


def step_token(
    config: DecoderConfig, sampling: Sampling, weights: Weights, cache: KVCache, tokens: jax.Array
) -> tuple[jax.Array, KVCache]:
    """Append tokens [B] and choose the next one of every row: int32 [B]."""
    logits, cache = steps.decode_step(config, weights, cache, tokens[:, None], in_place=True)
    return choose(sampling, logits[:, 0], cache.position), cache


def program(config: DecoderConfig, weights: Weights, sampling: Sampling | None = None) -> Program:
    """Make the program that runs on this weights tree where it lies."""
    leaves, structure = jax.tree.flatten(weights)
    prefill, step = _compiled(config, sampling or Sampling(), structure)
    return Program(
        prefill=functools.partial(prefill, leaves),
        step=functools.partial(step, leaves),
        cache_dtype=cache_dtype(weights),
        scanned=is_scanned(weights),
    )


def cache_dtype(weights: Weights) -> jax.typing.DTypeLike:
    """What goes with these weights: a cache is read at each step as they are, and kept as narrow.

    Keys and values in bfloat16 cost no accuracy beside weights in bfloat16 or int8.
    """
    is_wide = weights["embedding"]["weight"].dtype == jnp.float32
    dtype: jax.typing.DTypeLike = jnp.float32 if is_wide else jnp.bfloat16
    return dtype


@functools.cache
def _compiled(
    config: DecoderConfig, sampling: Sampling, structure: jax.tree_util.PyTreeDef
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """`prefill_token` and `step_token` of weights as a list of leaves, jitted.

    Static arguments would be hashed at every call, and the keys of nested dicts sorted: of a tree
    of 272 leaves half a millisecond a token.
    """

    def jitted(fn: Callable[..., Any]) -> Callable[..., Any]:
        def of_leaves(leaves: list[jax.Array], *rest: jax.Array) -> Any:
            return fn(config, sampling, jax.tree.unflatten(structure, leaves), *rest)

        of_leaves.__name__ = fn.__name__  # what profiles call it
        return jax.jit(of_leaves, donate_argnums=1)

    return jitted(prefill_token), jitted(step_token)


def cache_length(prompt_lengths: Sequence[int], max_tokens: int) -> int:
    """Slots that prompts of these lengths and `max_tokens` more each need, padding included."""
    longest = max(prompt_lengths)
    return max(sum(_chunks(longest)), longest + max_tokens)


def generate(
    program: Program,
    config: DecoderConfig,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    stop_ids: Collection[int] = (),
    length: int | None = None,
    cache_dtype: jax.typing.DTypeLike | None = None,
) -> Iterator[tuple[int | None, ...]]:
    """Continue prompts of any lengths, together, a token each at a time.

    Args:
      program: prefill and step.
      config: the model's.
      prompts: token ids, one or more sequences of one or more.
      max_tokens: at most so many for each sequence.
      stop_ids: a sequence ends behind the first of these that it emits.
      length: slots in the cache; None takes as many as are needed.
      cache_dtype: float32 or bfloat16; None: the program's.

    Yields:
      The next token of each sequence; None for one that has ended. Each tuple comes as soon as
      its tokens are known, so the time to the first is the TTFT and between two is the ITL.

    Raises:
      ModelError: for an empty prompt, a token outside the vocabulary, or prompts that together
        with `max_tokens` do not fit the cache or the model's context.
    """
    dtype = program.cache_dtype if cache_dtype is None else cache_dtype
    length = _checked_length(config, prompts, max_tokens, length)
    cache = new_cache(
        config, batch=len(prompts), length=length, dtype=dtype, scanned=program.scanned
    )
    tokens, cache = _prefilled(program, cache, prompts)
    ended = [False] * len(prompts)
    for count in range(1, max_tokens + 1):
        # The next step is under way before the host waits for this one's tokens, or the device
        # would idle meanwhile. Not before the first token, which should come as soon as it can.
        ahead = 1 < count < max_tokens
        following = program.step(cache, tokens) if ahead else None
        emitted = tuple(
            None if done else int(t) for done, t in zip(ended, np.asarray(tokens), strict=True)
        )
        yield emitted
        ended = [done or t in stop_ids for done, t in zip(ended, emitted, strict=True)]
        if all(ended) or count == max_tokens:
            return
        tokens, cache = following or program.step(cache, tokens)


def _prefilled(
    program: Program, cache: KVCache, prompts: Sequence[Sequence[int]]
) -> tuple[jax.Array, KVCache]:
    lengths = np.asarray([len(p) for p in prompts], np.int32)
    first = np.zeros(len(prompts), np.int32)
    start = 0
    for chunk in _chunks(int(lengths.max())):
        tokens = np.zeros((len(prompts), chunk), np.int32)
        for row, prompt in enumerate(prompts):
            part = prompt[start : start + chunk]
            tokens[row, : len(part)] = part
        here = np.clip(lengths - start, 0, chunk)
        chosen, cache = program.prefill(cache, jnp.asarray(tokens), jnp.asarray(here))
        last_is_here = (lengths > start) & (lengths <= start + chunk)
        first = np.where(last_is_here, np.asarray(chosen), first)
        start += chunk
    return jnp.asarray(first), cache


def _chunks(tokens: int) -> list[int]:
    """The sizes in which a prompt is taken: few, so that few programs are compiled."""
    whole, rest = divmod(tokens, CHUNK)
    sizes = [CHUNK] * whole
    if rest:
        ladder = [2**k * step // 2 for k in range(4, 11) for step in (2, 3)]  # 16, 24, 32, 48, …
        sizes.append(next(size for size in ladder if size >= rest))
    return sizes


def _checked_length(
    config: DecoderConfig, prompts: Sequence[Sequence[int]], max_tokens: int, length: int | None
) -> int:
    if not prompts or not all(len(p) for p in prompts):
        raise ModelError("generate: every prompt needs at least one token")
    if max_tokens < 1:
        raise ModelError(f"generate: max_tokens must be at least 1, not {max_tokens}")
    stray = [t for p in prompts for t in p if not 0 <= t < config.vocab_size]
    if stray:
        raise ModelError(
            f"generate: token {stray[0]} is outside the vocabulary of {config.vocab_size}"
        )
    lengths = [len(p) for p in prompts]
    if max(lengths) + max_tokens > config.max_context:
        raise ModelError(
            f"generate: a prompt of {max(lengths)} tokens and {max_tokens} more exceed the model's "
            f"context of {config.max_context}; shorten the prompt or lower max_tokens"
        )
    needed = cache_length(lengths, max_tokens)
    if length is not None and length < needed:
        raise ModelError(
            f"generate: a prompt of {max(lengths)} tokens and {max_tokens} more need {needed} "
            f"cache slots, and the cache has {length}; lengthen the cache, or shorten the prompt"
        )
    return length or needed
