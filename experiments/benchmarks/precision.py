"""How often narrow weights would choose the same token as float32 ones, given the same text."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments.progress import progress
from models import steps
from models.cache import new_cache
from models.config import DecoderConfig
from models.generate import cache_dtype
from models.steps import Weights

LENGTHS = (128, 192, 256, 384, 512, 768)  # texts are padded to one of these


def top1_agreement(
    config: DecoderConfig, want: Weights, others: dict[str, Weights], texts: Sequence[Sequence[int]]
) -> tuple[dict[str, float], int]:
    """Teacher-forced over whole texts: the share of tokens whose likeliest successor is the same.

    Args:
      config: of all the weights.
      want: the weights to agree with.
      others: the weights to compare, by name.
      texts: token ids.

    Returns:
      The share for each of `others`, and how many tokens it is a share of.
    """
    same = dict.fromkeys(others, 0)
    caches = {name: cache_dtype(weights) for name, weights in others.items()}
    others = {name: _widened(weights) for name, weights in others.items()}
    tokens = 0
    with progress(len(texts), "top-1 agreement", "text") as bar:
        for text in sorted(texts, key=len):
            reference = _likeliest(config, want, text, cache_dtype(want))
            tokens += len(text)
            for name, weights in others.items():
                likeliest = _likeliest(config, weights, text, caches[name])
                same[name] += int((likeliest == reference).sum())
            bar.update()
    return {name: count / tokens for name, count in same.items()}, tokens


def _widened(weights: Weights) -> Weights:
    """The same numbers held in float32: ordinary dots would widen them again for every text."""
    wide: Weights = {}
    for name, value in weights.items():
        if isinstance(value, dict):
            wide[name] = _widened(value)
        elif not str(name).endswith("_scale"):
            scale = weights.get(f"{name}_scale")
            wide[name] = value.astype(jnp.float32) * (1 if scale is None else scale[:, None])
    return wide


def _likeliest(
    config: DecoderConfig, weights: Weights, text: Sequence[int], dtype: jax.typing.DTypeLike
) -> np.ndarray:
    length = next(n for n in LENGTHS if n >= len(text))
    padded = np.zeros((1, length), np.int32)
    padded[0, : len(text)] = text
    cache = new_cache(config, batch=1, length=length, dtype=dtype)
    return np.asarray(_argmax(config, weights, cache, jnp.asarray(padded)))[: len(text)]


def _argmax_of_step(config, weights, cache, tokens):  # type: ignore[no-untyped-def]
    logits, _ = steps.decode_step(config, weights, cache, tokens)
    return logits[0].argmax(axis=-1)


_argmax = jax.jit(_argmax_of_step, static_argnums=0)
