"""A mixture of experts (arXiv 1701.06538): each token goes through a few MLPs of many.

Two forms of the same sum. A few tokens gather the matrices of the experts that they were sent to,
so that only those are read. Many tokens are sorted by expert, and each expert's run of them is
multiplied at once (`jax.lax.ragged_dot`).
"""

import jax
import jax.numpy as jnp
from flax import nnx

from models.activations import gated
from models.config import DecoderConfig
from models.experts_config import Experts
from models.linear import Linear, products
from models.mlp import MLP
from models.routing import Router
from models.stored_matrix import StoredMatrix


class ExpertLinear(nnx.Module):
    """One linear map for each expert; kernels [experts, out, in]."""

    def __init__(self, count: int, inputs: int, outputs: int, *, bias: bool):
        self.kernel = nnx.Param(jnp.zeros((count, outputs, inputs), jnp.float32))
        if bias:
            self.bias = nnx.Param(jnp.zeros((count, outputs), jnp.float32))

    def gathered(self, x: jax.Array, chosen: jax.Array) -> jax.Array:
        """x [N, k, in], each row through the expert `chosen` [N, k] for it: [N, k, out]."""
        kernel = StoredMatrix.of(self, "kernel").take(chosen).dense()
        y = jnp.einsum("nki,nkoi->nko", x, kernel.astype(x.dtype), precision="highest")
        return y + self.bias[...][chosen].astype(x.dtype) if hasattr(self, "bias") else y

    def sorted(self, x: jax.Array, expert: jax.Array, sizes: jax.Array) -> jax.Array:
        """x [R, in] sorted by `expert` [R], of which each has `sizes` [experts]: [R, out]."""
        y = jax.lax.ragged_dot(
            x,
            StoredMatrix.of(self, "kernel").dense().astype(x.dtype).swapaxes(1, 2),
            sizes,
            precision=jax.lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )
        y = y.astype(x.dtype)
        return y + self.bias[...][expert].astype(x.dtype) if hasattr(self, "bias") else y


class ExpertBank(nnx.Module):
    """The gated MLPs of all experts."""

    def __init__(self, config: DecoderConfig, experts: Experts):
        count, width, bias = experts.count, config.width, experts.bias
        self.gate = ExpertLinear(count, width, experts.width, bias=bias)
        self.up = ExpertLinear(count, width, experts.width, bias=bias)
        self.down = ExpertLinear(count, experts.width, width, bias=bias)
        self.activation = config.activation

    def gathered(self, x: jax.Array, chosen: jax.Array) -> jax.Array:
        """x [N, k, width] through the experts `chosen` [N, k]: the same shape."""
        gate, up = self.gate.gathered(x, chosen), self.up.gathered(x, chosen)
        return self.down.gathered(gated(self.activation, gate, up), chosen)

    def sorted(self, x: jax.Array, chosen: jax.Array) -> jax.Array:
        """The same, each expert's tokens at once."""
        flat = chosen.reshape(-1)
        order = jnp.argsort(flat)
        expert, rows = flat[order], x.reshape(flat.size, -1)[order]
        sizes = jnp.bincount(flat, length=self.gate.kernel.shape[0])
        gate, up = self.gate.sorted(rows, expert, sizes), self.up.sorted(rows, expert, sizes)
        out = self.down.sorted(gated(self.activation, gate, up), expert, sizes)
        return jnp.zeros_like(out).at[order].set(out).reshape(x.shape)


class Mixture(nnx.Module):
    """Router, experts, and the MLP that all tokens share where there is one."""

    def __init__(self, config: DecoderConfig, experts: Experts):
        self.router = Router(config, experts)
        self.experts = ExpertBank(config, experts)
        if experts.shared_width:
            self.shared = MLP(config, experts.shared_width)
        if experts.shared_gate:
            self.shared_gate = Linear(config.width, 1)
        self.config = experts

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map x [B, T, width] to the same shape."""
        tokens = x.reshape(-1, x.shape[-1])
        chosen, shares = self.router(tokens)
        shares = shares.astype(x.dtype)
        rows = jnp.broadcast_to(tokens[:, None], (*chosen.shape, x.shape[-1]))
        if self.config.scales_input:
            rows = rows * shares[..., None]
        # As many rows as experts: by then most experts are read anyway.
        few = chosen.size <= self.config.count
        out = (self.experts.gathered if few else self.experts.sorted)(rows, chosen)
        out = (out if self.config.scales_input else out * shares[..., None]).sum(1)
        out = out.reshape(x.shape)
        if not self.config.shared_width:
            return out
        shared = self.shared(x)
        if self.config.shared_gate:
            (gate,) = products(x, self.shared_gate)
            shared = shared * jax.nn.sigmoid(gate)
        return out + shared
