"""Llama 3's RoPE scaling, found again from the factors that a GGUF file holds.

A GGUF file does not have the rule (`models.config.RopeScaling`) but what comes out of it, a tensor
`rope_freqs.weight` with the divisor of each rotary frequency. Only the ratio of the rule's two
bounds shows in it; it is 1 to 4 in every Llama 3.1 to 3.3, so that each divisor between the bounds
gives the original context, and the rule found so must give the file's divisors again.
"""

import dataclasses
import math

import numpy as np

from models.config import DecoderConfig, RopeScaling
from models.errors import ModelError
from models.rope import inverse_frequencies

_LOW, _HIGH = 1.0, 4.0
_TOLERANCE = 1e-3


def scaling_of(divisors: np.ndarray, config: DecoderConfig, source: str) -> RopeScaling | None:
    """The rule that gives these divisors [head_width / 2] for a config that has none yet.

    Raises ModelError where Llama 3's rule with its usual bounds does not give them.
    """
    refusal = ModelError(f"{source}: rope_freqs.weight does not follow Llama 3's RoPE scaling")
    if divisors.shape != (config.head_width // 2,):
        raise refusal
    if not np.all((divisors >= 1) & (divisors < np.inf)):
        raise refusal
    plain = inverse_frequencies(config.rope)
    factor = float(divisors.max())
    if factor == 1.0:
        return None
    kept = (1 / divisors - 1 / factor) / (1 - 1 / factor)
    turns = _LOW + (_HIGH - _LOW) * kept
    contexts = turns * 2 * np.pi / plain
    between = (kept > _TOLERANCE) & (kept < 1 - _TOLERANCE)
    if between.any():
        context = round(min(float(np.median(contexts[between])), 2.0**31))
    else:  # any context will do that leaves all the unchanged ones as they are
        context = math.ceil(contexts[kept >= 1 - _TOLERANCE].max(initial=1.0))
    rule = RopeScaling(
        factor=factor,
        low_frequency_factor=_LOW,
        high_frequency_factor=_HIGH,
        original_context=max(1, context),
    )
    scaled = inverse_frequencies(dataclasses.replace(config, rope_scaling=rule).rope)
    if not np.allclose(plain / divisors, scaled, rtol=_TOLERANCE, atol=0):
        raise refusal
    return rule
