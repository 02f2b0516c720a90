"""One layer's part of stacked weights, left where it lies.

A scan slices each layer's part out of its stacks, and XLA copies what it slices before a native
product sees it. Native products take a stack and the number of a layer instead; everything else
slices here, when it asks for the array.
"""

import dataclasses
from typing import Any

import jax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OfStack:
    """`stack[layer]`, in the place of that array: `[...]` slices it."""

    stack: jax.Array  # [layers, ...]
    layer: jax.Array  # int32 []

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return self.stack.shape[1:]

    def __getitem__(self, key: Any) -> jax.Array:
        """As of the array itself."""
        part: jax.Array = jax.lax.dynamic_index_in_dim(self.stack, self.layer, keepdims=False)[key]
        return part
