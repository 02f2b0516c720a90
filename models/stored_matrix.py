"""A matrix as it is stored: its numbers and the scales beside them, taken from a module.

They may lie in stacks of all layers' (`models.of_stack`): then they are sliced out for anything but
native products.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

import kernels
from models.formats import SCALE, TENSOR_SCALE, ZERO, widen
from models.of_stack import OfStack


@dataclasses.dataclass(frozen=True)
class StoredMatrix:
    """Numbers [..., out, in], with scales or without; see `models.formats`."""

    numbers: jax.Array
    scale: jax.Array | None = None
    tensor_scale: jax.Array | None = None
    zero: jax.Array | None = None
    layer: jax.Array | None = None  # int32 []: the others are stacks, of which it is this one's

    @staticmethod
    def of(module: nnx.Module, name: str) -> "StoredMatrix":
        """The module's weights of that name; its scales are there where the format has them."""
        numbers = getattr(module, name).get_value()
        beside = (getattr(module, name + suffix, None) for suffix in (SCALE, TENSOR_SCALE, ZERO))
        held = [None if one is None else one.get_value() for one in beside]
        if isinstance(numbers, OfStack):
            scale, tensor_scale, zero = (None if one is None else one.stack for one in held)
            return StoredMatrix(numbers.stack, scale, tensor_scale, zero, numbers.layer)
        return StoredMatrix(numbers, *held)

    @property
    def native(self) -> kernels.Matrix | None:
        """As `kernels.matvec` takes it, with `layer`; None where it does not."""
        if self.scale is None:
            return self.numbers
        return (self.numbers, self.scale) if self.numbers.dtype == jnp.int8 else None

    def sliced(self) -> "StoredMatrix":
        """The same out of its stacks."""
        if self.layer is None:
            return self
        layer = self.layer

        def part(stack: jax.Array | None) -> jax.Array | None:
            return None if stack is None else OfStack(stack, layer)[...]

        numbers = OfStack(self.numbers, layer)[...]
        return StoredMatrix(numbers, part(self.scale), part(self.tensor_scale), part(self.zero))

    def dense(self) -> jax.Array:
        """In float32."""
        one = self.sliced()
        return widen(one.numbers, one.scale, one.tensor_scale, one.zero)

    def product(self, x: jax.Array) -> jax.Array:
        """x [..., in] times [out, in]: [..., out] in x's dtype."""
        one = self.sliced()
        if one.scale is None or one.scale.ndim == 1:  # a scale per row can wait
            one_each = one.numbers if one.scale is None else (one.numbers, one.scale)
            return kernels.plain(x, one_each)
        return kernels.plain(x, one.dense())

    def take(self, ids: jax.Array) -> "StoredMatrix":
        """Entries of the leading axis: an expert's matrices, a token's rows."""
        one = self.sliced()
        whole = one.tensor_scale
        return StoredMatrix(
            one.numbers[ids],
            None if one.scale is None else one.scale[ids],
            whole if whole is None or whole.ndim == 0 else whole[ids],
            None if one.zero is None else one.zero[ids],
        )
