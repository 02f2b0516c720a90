"""Steps of the zoo's decoders, traced once for each question that differs in shape.

A step is the decoder that would run, in bfloat16 arithmetic and with scanned layers, over
`jax.ShapeDtypeStruct`s, with exactly as many slots in the cache as it has tokens; then made as
serving software does it (`experiments.served`).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

import emu
from experiments.errors import ExperimentError
from experiments.served import as_served
from experiments.stored_as import cache_dtype, weights_format
from models.steps import decode_step, prefill
from models.zoo import architecture

_REMEMBERED = 256  # works: those of one model's step times on all systems


@functools.lru_cache(maxsize=_REMEMBERED)
def decode_work(
    model: str, weights: str, kv: str, *, batch: int, context: int, tokens: int = 1
) -> emu.Work:
    """One decode step.

    Args:
      model: a name in models.zoo.
      weights, kv: words of `experiments.stored_as`.
      batch: sequences, each of `context` tokens in the cache.
      tokens: of each sequence, computed at once (more than 1 to verify drafts).

    Raises:
      ModelError, ExperimentError: an unknown name or format, or a context beyond the model's.
    """
    return _traced(model, weights, kv, batch, context, tokens, is_prefill=False)


@functools.lru_cache(maxsize=_REMEMBERED)
def prefill_work(
    model: str, weights: str, kv: str, *, batch: int, context: int, tokens: int
) -> emu.Work:
    """A chunk of prompts, `tokens` of each after `context` in the cache; as `decode_work`."""
    return _traced(model, weights, kv, batch, context, tokens, is_prefill=True)


def check_context(model: str, tokens: int, flag: str) -> None:
    """Raises ExperimentError where a sequence of so many tokens is beyond the model's context."""
    most = architecture(model).config.max_context
    if tokens > most:
        raise ExperimentError(
            f"{flag}: {model} takes sequences of {most:,} tokens, and this makes one of {tokens:,}"
        )


def _traced(
    model: str, weights: str, kv: str, batch: int, context: int, tokens: int, *, is_prefill: bool
) -> emu.Work:
    found = architecture(model)
    config = dataclasses.replace(found.config, arithmetic="bfloat16")
    length = context + tokens
    tree = found.weights(weights_format(weights), scanned=True)
    cache = found.cache(batch=batch, length=length, dtype=cache_dtype(kv), at_once=tokens)
    ids = jax.ShapeDtypeStruct((batch, tokens), jnp.int32)
    # The new tokens are attended to as well, from the cache if a prefill has just written them.
    hints = emu.Hints(context=length if is_prefill else context)
    if is_prefill:
        lengths = jax.ShapeDtypeStruct((batch,), jnp.int32)
        step = functools.partial(prefill, config)
        work = emu.trace(step, tree, cache, ids, lengths, weights=0, cache=1, hints=hints)
    else:
        step = functools.partial(decode_step, config)
        work = emu.trace(step, tree, cache, ids, weights=0, cache=1, hints=hints)
    return as_served(work)
