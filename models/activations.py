"""The functions between an MLP's products, by name."""

from collections.abc import Callable

import jax


def gelu(x: jax.Array) -> jax.Array:
    """GELU in its tanh form (arXiv 1606.08415)."""
    return jax.nn.gelu(x, approximate=True)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu": gelu,
}


def gated(name: str, gate: jax.Array, up: jax.Array) -> jax.Array:
    """What a gated MLP (arXiv 2002.05202) makes of its two products."""
    return ACTIVATIONS[name](gate) * up
