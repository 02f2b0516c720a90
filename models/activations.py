"""The functions between an MLP's products, by name."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def gelu(x: jax.Array) -> jax.Array:
    """GELU in its tanh form (arXiv 1606.08415)."""
    return jax.nn.gelu(x, approximate=True)


def exact_gelu(x: jax.Array) -> jax.Array:
    """GELU by the error function, as Falcon has it."""
    return jax.nn.gelu(x, approximate=False)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu": gelu,
    "exact_gelu": exact_gelu,
}


def clamped_swiglu(gate: jax.Array, up: jax.Array) -> jax.Array:
    """gpt-oss's SwiGLU: both products clamped, a steeper sigmoid, one added to the linear part."""
    gate, up = jnp.minimum(gate, 7.0), jnp.clip(up, -7.0, 7.0)
    return gate * jax.nn.sigmoid(1.702 * gate) * (up + 1)


GATED_ONLY = {"clamped_swiglu": clamped_swiglu}


def gated(name: str, gate: jax.Array, up: jax.Array) -> jax.Array:
    """What a gated MLP (arXiv 2002.05202) makes of its two products."""
    if name in GATED_ONLY:
        return GATED_ONLY[name](gate, up)
    return ACTIVATIONS[name](gate) * up
