"""Rotary position embedding (arXiv 2104.09864), in the half-split order of Hugging Face."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from models.rope_config import Rope, RopeScaling, Stretch, Yarn


def inverse_frequencies(rope: Rope) -> np.ndarray:
    """Radians per token of each pair of channels, float32 [width / 2]."""
    exponents = np.arange(0, rope.width, 2, dtype=np.float32) / rope.width
    frequencies = 1.0 / (np.float32(rope.theta) ** exponents)
    match rope.scaling:
        case RopeScaling() as scaling:
            frequencies = _blended(frequencies, scaling)
        case Yarn() as scaling:
            frequencies = _blended_by_channel(frequencies, rope, scaling)
        case Stretch() as scaling:
            frequencies = frequencies / scaling.factor
    return frequencies.astype(np.float32)


def angles(rope: Rope, positions: jax.Array) -> jax.Array:
    """Cosines and sines [2, B, T, width / 2] of positions [B, T], for every layer of that rope."""
    turns = positions[..., None].astype(jnp.float32) * inverse_frequencies(rope)
    both = jnp.stack([jnp.cos(turns), jnp.sin(turns)])
    if isinstance(rope.scaling, Yarn) and rope.scaling.magnitude != 1:
        return both * np.float32(rope.scaling.magnitude)
    return both


def rotate(x: jax.Array, angles: jax.Array | None) -> jax.Array:
    """Turn the heads x [B, T, heads, head_width] by the angles of their positions.

    Where the angles are fewer than head_width / 2, the first channels turn and the rest stay;
    without angles all do.
    """
    if angles is None:
        return x
    cosine, sine = angles[:, :, :, None]
    turning, staying = x, []
    if 2 * cosine.shape[-1] < x.shape[-1]:
        turning, *staying = jnp.split(x, [2 * cosine.shape[-1]], axis=-1)
    first, second = jnp.split(turning, 2, axis=-1)
    turned = [first * cosine - second * sine, second * cosine + first * sine]
    return jnp.concatenate([*(y.astype(x.dtype) for y in turned), *staying], axis=-1)


def _blended(frequencies: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    wavelengths = 2 * np.pi / frequencies
    if scaling.low_frequency_factor == scaling.high_frequency_factor:
        is_kept = wavelengths < scaling.original_context / scaling.high_frequency_factor
        return np.where(is_kept, frequencies, frequencies / scaling.factor)
    share = (scaling.original_context / wavelengths - scaling.low_frequency_factor) / (
        scaling.high_frequency_factor - scaling.low_frequency_factor
    )
    kept = np.clip(share, 0.0, 1.0)
    stretched: np.ndarray = kept * frequencies + (1 - kept) * frequencies / scaling.factor
    return stretched


def _blended_by_channel(frequencies: np.ndarray, rope: Rope, scaling: Yarn) -> np.ndarray:
    def channel(turns: float) -> float:
        """The (fractional) channel that makes so many turns in the original context."""
        wavelength = scaling.original_context / (turns * 2 * math.pi)
        return rope.width * math.log(wavelength) / (2 * math.log(rope.theta))

    low, high = channel(scaling.fast_turns), channel(scaling.slow_turns)
    if scaling.whole_channels:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.width - 1)
    ramp = (np.arange(rope.width // 2, dtype=np.float32) - low) / max(high - low, 0.001)
    kept = 1 - np.clip(ramp, 0.0, 1.0)
    stretched: np.ndarray = kept * frequencies + (1 - kept) * frequencies / scaling.factor
    return stretched
