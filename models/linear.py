"""Linear maps and embeddings whose weights are float32, bfloat16 or int8.

Kernels are [out, in], as checkpoints store them. An int8 kernel is symmetric per output channel:
weight = kernel × kernel_scale. Modules are declared in float32 and without scales: what a kernel
is stored in shows when weights are put into it (`models.structure`). One token of one sequence goes
through `kernels.matvec`; anything larger through an ordinary dot.
"""

import jax
import jax.numpy as jnp
from flax import nnx

import kernels


class Linear(nnx.Module):
    """x ↦ x Wᵀ (+ bias)."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False):
        self.kernel = nnx.Param(jnp.zeros((outputs, inputs), jnp.float32))
        if bias:
            self.bias = nnx.Param(jnp.zeros((outputs,), jnp.float32))

    def dense(self) -> jax.Array:
        """The kernel in float32, [out, in]."""
        kernel = self.kernel[...].astype(jnp.float32)
        return kernel * self.kernel_scale[...][:, None] if hasattr(self, "kernel_scale") else kernel

    @property
    def matrix(self) -> kernels.Matrix:
        """The weights as `kernels.matvec` takes them."""
        if hasattr(self, "kernel_scale"):
            return self.kernel[...], self.kernel_scale[...]
        return self.kernel[...]


class Embedding(nnx.Module):
    """Token ids to rows of the table."""

    def __init__(self, vocab_size: int, width: int):
        self.weight = nnx.Param(jnp.zeros((vocab_size, width), jnp.float32))

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Look up tokens [B, T]: float32 [B, T, width]."""
        rows = self.weight[...][tokens].astype(jnp.float32)
        if hasattr(self, "weight_scale"):
            rows = rows * self.weight_scale[...][tokens][..., None]
        return rows

    @property
    def matrix(self) -> kernels.Matrix:
        """The table as the head's weights, where the two are tied."""
        if hasattr(self, "weight_scale"):
            return self.weight[...], self.weight_scale[...]
        return self.weight[...]


def products(x: jax.Array, *maps: Linear | Embedding) -> tuple[jax.Array, ...]:
    """Apply maps that share their input x [B, T, in] in one go: float32 [B, T, out] each."""
    if x.shape[:2] == (1, 1):
        outs = kernels.matvec(x[0, 0], [m.matrix for m in maps])
        outs = tuple(y[None, None] for y in outs)
    else:
        outs = tuple(kernels.plain(x, m.matrix) for m in maps)
    return tuple(
        y + m.bias[...] if isinstance(m, Linear) and hasattr(m, "bias") else y
        for m, y in zip(maps, outs, strict=True)
    )
