"""Decoding at batch 1, each dtype beside a plain streaming read of as many bytes.

Every contestant goes on from the same prompt. What is timed is checked: each token that the timed
steps emit must be the likeliest by the same weights through ordinary dots, or as good as that.
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
from models.structure import is_scanned

TOKENS = 48  # decoded in one turn
SLOTS = 512
# How far below the largest the logit of an emitted token may lie by ordinary dots, by the cache's
# dtype. Sums in another order come to a little else, which keys that are rounded to bfloat16 turn
# into another bfloat16: where two tokens are nearly as likely (0.005 apart was seen), both do.
TIES = {"float32": 0.0, "bfloat16": 0.01}


def weight_bytes(weights: Weights) -> int:
    """Bytes that the weights occupy, all of which a step reads."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(weights))


def limit(name: str, nbytes: int) -> Contestant:
    """A plain read of `nbytes` in one piece, on the threads that the products use."""
    noise = np.random.default_rng(0).integers(0, 255, nbytes, np.uint8)
    data = kernels.LargePages().put(noise)  # as the weights are held
    read = jax.jit(kernels.read)
    return Contestant(
        name=name,
        turn=lambda: emu.measure(lambda: read(data), samples=20, warmup=1, min_seconds=0.0),
    )


def decoder(
    name: str, config: DecoderConfig, weights: Weights, prompt: Sequence[int]
) -> Contestant:
    """Greedy decoding of `TOKENS` tokens behind a prompt, a sample a token.

    Raises ExperimentError for tokens that ordinary dots would not emit, here, and for others than
    these in any turn.
    """
    running = program(config, weights)
    want, _ = _decode(running, config, prompt)
    short = _short_of_likeliest(config, weights, prompt, want)
    if short > TIES[jnp.dtype(cache_dtype(weights)).name]:
        raise ExperimentError(
            f"bench: {name} decoded {want}, one of which is {short:.3f} below the likeliest"
        )

    def turn() -> emu.Latency:
        tokens, latency = _decode(running, config, prompt)
        if tokens != want:
            raise ExperimentError(f"bench: {name} decoded {tokens}, and {want} before")
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


def _short_of_likeliest(
    config: DecoderConfig, weights: Weights, prompt: Sequence[int], tokens: list[int]
) -> float:
    """By ordinary dots, all places at once: the most that a token lies below the likeliest."""
    ids = jnp.asarray([[*prompt, *tokens[:-1]]])
    cache = new_cache(
        config,
        batch=1,
        length=ids.shape[1],
        dtype=cache_dtype(weights),
        scanned=is_scanned(weights),
    )
    logits, _ = jax.jit(steps.decode_step, static_argnums=0)(config, weights, cache, ids)
    there = logits[0, len(prompt) - 1 :]
    emitted = jnp.take_along_axis(there, jnp.asarray(tokens)[:, None], axis=1)[:, 0]
    return float((there.max(axis=-1) - emitted).max())
