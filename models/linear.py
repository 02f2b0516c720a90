"""Linear maps and embeddings, whatever their weights are stored in.

Kernels are [out, in], as checkpoints store them. Modules are declared in float32 and without
scales: what a kernel is stored in (`models.formats`) shows when weights are put into it
(`models.structure`). One token of one sequence goes through `kernels.matvec` where that knows the
format; anything else through an ordinary dot.
"""

import jax
import jax.numpy as jnp
from flax import nnx

import kernels
from models.stored_matrix import StoredMatrix


class Linear(nnx.Module):
    """x ↦ x Wᵀ (+ bias)."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False):
        self.kernel = nnx.Param(jnp.zeros((outputs, inputs), jnp.float32))
        if bias:
            self.bias = nnx.Param(jnp.zeros((outputs,), jnp.float32))

    @property
    def matrix(self) -> StoredMatrix:
        """The weights."""
        return StoredMatrix.of(self, "kernel")


class Embedding(nnx.Module):
    """Token ids to rows of the table."""

    def __init__(self, vocab_size: int, width: int):
        self.weight = nnx.Param(jnp.zeros((vocab_size, width), jnp.float32))

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Look up tokens [B, T]: float32 [B, T, width]."""
        return self.matrix.take(tokens).dense()

    @property
    def matrix(self) -> StoredMatrix:
        """The table, which is the head's weights too where the two are tied."""
        return StoredMatrix.of(self, "weight")


def products(x: jax.Array, *maps: Linear | Embedding) -> tuple[jax.Array, ...]:
    """Apply maps that share their input x [B, T, in] in one go: [B, T, out] each, in x's dtype."""
    matrices = [m.matrix for m in maps]
    native = [n for m in matrices if (n := m.native) is not None]
    outs: tuple[jax.Array, ...]
    one_token = x.shape[:2] == (1, 1) and x.dtype == jnp.float32
    if one_token and len(native) == len(matrices):
        outs = tuple(y[None, None] for y in kernels.matvec(x[0, 0], native, matrices[0].layer))
    else:
        outs = tuple(m.product(x) for m in matrices)
    return tuple(
        y + m.bias[...].astype(y.dtype) if isinstance(m, Linear) and hasattr(m, "bias") else y
        for m, y in zip(maps, outs, strict=True)
    )
