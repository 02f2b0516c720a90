"""What weights and cache are stored in, by the words that deployments are described with.

For weights a format of `models.formats` (`bf16`, `fp8`, `int8`, `int4-g32`, …); followed by `-moe`,
for the MLPs alone, the rest staying in bf16, as gpt-oss in mxfp4 and DeepSeek-R1 in nvfp4 are
published. For the cache `bf16`, `fp8` or `int8` (with a scale for each vector).
"""

import difflib
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp

from experiments.errors import ExperimentError
from models.errors import ModelError
from models.formats import FORMATS, MLPS_ALONE, check_format, is_narrow

# float16 is as wide as bfloat16, and as fast. AWQ and GPTQ store four bits in groups of 128.
_SHORT = {
    "bf16": "bfloat16",
    "fp16": "bfloat16",
    "float16": "bfloat16",
    "fp32": "float32",
    "int4-g128": "int4",
    "awq": "int4",
    "gptq": "int4",
}
_CACHE = {
    "bf16": jnp.bfloat16,
    "bfloat16": jnp.bfloat16,
    "fp16": jnp.bfloat16,
    "float16": jnp.bfloat16,
    "fp8": jnp.float8_e4m3fn,
    "int8": jnp.int8,
    "float32": jnp.float32,
}


def weights_format(word: str) -> str:
    """As `models.zoo` takes it. Raises ExperimentError, with the nearest word."""
    form = _SHORT.get(word, word)
    try:
        check_format(form)
    except ModelError:
        alone = [f"{name}{MLPS_ALONE}" for name in FORMATS if is_narrow(name)]
        known = [*_SHORT, *FORMATS, *alone]
        raise ExperimentError(f"--weights: no format {word!r}; {_near(word, known)}") from None
    return form


def cache_dtype(word: str) -> Any:
    """The dtype of a cache. Raises ExperimentError, with the nearest word."""
    if word not in _CACHE:
        raise ExperimentError(f"--kv: no cache format {word!r}; {_near(word, _CACHE)}")
    return _CACHE[word]


def _near(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.4)
    return f"did you mean {close[0]!r}?" if close else f"take one of {', '.join(known)}"
