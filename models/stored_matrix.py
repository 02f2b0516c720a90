"""A matrix as it is stored: its numbers and the scales beside them, taken from a module."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

import kernels
from models.formats import SCALE, TENSOR_SCALE, ZERO, widen


@dataclasses.dataclass(frozen=True)
class StoredMatrix:
    """Numbers [..., out, in], with scales or without; see `models.formats`."""

    numbers: jax.Array
    scale: jax.Array | None = None
    tensor_scale: jax.Array | None = None
    zero: jax.Array | None = None

    @staticmethod
    def of(module: nnx.Module, name: str) -> "StoredMatrix":
        """The module's weights of that name; its scales are there where the format has them."""
        beside = (getattr(module, name + suffix, None) for suffix in (SCALE, TENSOR_SCALE, ZERO))
        return StoredMatrix(
            getattr(module, name)[...], *(None if one is None else one[...] for one in beside)
        )

    @property
    def native(self) -> kernels.Matrix | None:
        """As `kernels.matvec` takes it; None where it does not."""
        if self.scale is None:
            return self.numbers
        return (self.numbers, self.scale) if self.numbers.dtype == jnp.int8 else None

    def dense(self) -> jax.Array:
        """In float32."""
        return widen(self.numbers, self.scale, self.tensor_scale, self.zero)

    def product(self, x: jax.Array) -> jax.Array:
        """x [..., in] times [out, in]: [..., out] in x's dtype."""
        if self.scale is None or self.scale.ndim == 1:  # a scale per row can wait
            one_each = self.numbers if self.scale is None else (self.numbers, self.scale)
            return kernels.plain(x, one_each)
        return kernels.plain(x, self.dense())

    def take(self, ids: jax.Array) -> "StoredMatrix":
        """Entries of the leading axis: an expert's matrices, a token's rows."""
        whole = self.tensor_scale
        return StoredMatrix(
            self.numbers[ids],
            None if self.scale is None else self.scale[ids],
            whole if whole is None or whole.ndim == 0 else whole[ids],
            None if self.zero is None else self.zero[ids],
        )
