"""Decoding at batch 1, each dtype beside a plain streaming read of as many bytes.

Every contestant goes on from the same prompt. What is timed is checked: the tokens that the timed
steps emitted must be those that the same weights give through ordinary dots.
"""

import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

import emu
import kernels
from experiments.benchmarks.contest import Contestant
from experiments.errors import ExperimentError
from models import steps
from models.cache import new_cache
from models.config import DecoderConfig
from models.generate import Program, cache_dtype, generate, program
from models.steps import Weights

TOKENS = 48  # decoded in one turn
SLOTS = 512


def weight_bytes(weights: Weights) -> int:
    """Bytes that the weights occupy, all of which a step reads."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(weights))


def limit(name: str, nbytes: int) -> Contestant:
    """A plain read of `nbytes` in one piece, on the threads that the products use."""
    data = jnp.asarray(np.random.default_rng(0).integers(0, 255, nbytes, np.uint8))
    read = jax.jit(kernels.read)
    return Contestant(
        name=name,
        turn=lambda: emu.measure(lambda: read(data), samples=20, warmup=1, min_seconds=0.0),
    )


def decoder(
    name: str, config: DecoderConfig, weights: Weights, prompt: Sequence[int]
) -> Contestant:
    """Greedy decoding of `TOKENS` tokens behind a prompt, a sample a token.

    Raises ExperimentError in a turn whose tokens are not those of ordinary dots.
    """
    running = program(config, weights)
    want = _tokens_by_ordinary_dots(config, weights, prompt, _decode(running, config, prompt)[0])

    def turn() -> emu.Latency:
        tokens, latency = _decode(running, config, prompt)
        if tokens != want:
            raise ExperimentError(f"bench: {name} decoded {tokens}, not {want}")
        return latency

    return Contestant(name=name, turn=turn)


def _decode(
    running: Program, config: DecoderConfig, prompt: Sequence[int]
) -> tuple[list[int], emu.Latency]:
    stream = generate(running, config, [prompt], max_tokens=TOKENS + 1, length=SLOTS)
    tokens = [next(stream)[0]]
    recorder = emu.Recorder()
    start = time.perf_counter()
    for (token,) in stream:
        recorder.add(time.perf_counter() - start)
        tokens.append(token)
        start = time.perf_counter()
    return [t for t in tokens if t is not None], recorder.latency()


def _tokens_by_ordinary_dots(
    config: DecoderConfig, weights: Weights, prompt: Sequence[int], tokens: list[int]
) -> list[int]:
    """The likeliest token at each place, given the ones before: all places at once."""
    ids = jnp.asarray([[*prompt, *tokens[:-1]]])
    cache = new_cache(config, batch=1, length=ids.shape[1], dtype=cache_dtype(weights))
    logits, _ = jax.jit(steps.decode_step, static_argnums=0)(config, weights, cache, ids)
    likeliest: list[int] = logits[0, len(prompt) - 1 :].argmax(axis=-1).tolist()
    return likeliest
