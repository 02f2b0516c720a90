"""Rotary position embedding (arXiv 2104.09864), in the half-split order of Hugging Face."""

import jax
import jax.numpy as jnp
import numpy as np

from models.config import DecoderConfig, RopeScaling


def inverse_frequencies(config: DecoderConfig) -> np.ndarray:
    """Radians per token of each pair of channels, float32 [head_width / 2]."""
    exponents = np.arange(0, config.head_width, 2, dtype=np.float32) / config.head_width
    frequencies = 1.0 / (np.float32(config.rope_theta) ** exponents)
    if config.rope_scaling is not None:
        frequencies = _stretched(frequencies, config.rope_scaling)
    return frequencies.astype(np.float32)


def angles(config: DecoderConfig, positions: jax.Array) -> jax.Array:
    """Cosines and sines [2, B, T, head_width / 2] of positions [B, T], for every layer."""
    turns = positions[..., None].astype(jnp.float32) * inverse_frequencies(config)
    return jnp.stack([jnp.cos(turns), jnp.sin(turns)])


def rotate(x: jax.Array, angles: jax.Array) -> jax.Array:
    """Turn the heads x [B, T, heads, head_width] by the angles of their positions."""
    cosine, sine = angles[:, :, :, None]
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate(
        [first * cosine - second * sine, second * cosine + first * sine], axis=-1
    )


def _stretched(frequencies: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    wavelengths = 2 * np.pi / frequencies
    share = (scaling.original_context / wavelengths - scaling.low_frequency_factor) / (
        scaling.high_frequency_factor - scaling.low_frequency_factor
    )
    kept = np.clip(share, 0.0, 1.0)
    stretched: np.ndarray = kept * frequencies + (1 - kept) * frequencies / scaling.factor
    return stretched
