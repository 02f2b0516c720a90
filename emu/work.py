"""What one call of a function does: here, the tensors that it holds and reads.

A `Leaf` is one array of a weights or cache tree, named by its key path (`layers/0/mlp/up/kernel`).
"""

import dataclasses
from typing import Any, Literal

import jax


@dataclasses.dataclass(frozen=True, kw_only=True)
class Leaf:
    """One tensor that lives in a memory between calls."""

    path: str  # key path; cache leaves start with `cache/`
    shape: tuple[int, ...]
    dtype: str
    kind: Literal["weights", "cache"] = "weights"

    @property
    def bytes(self) -> int:
        """Bytes stored, as a Python int; sub-byte dtypes are packed."""
        count = 1
        for n in self.shape:
            count *= n
        return -(-count * _bits(self.dtype) // 8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """The tensors of a function, as far as placing needs them."""

    leaves: tuple[Leaf, ...]


def _bits(dtype: str) -> int:
    if dtype in ("int4", "uint4", "float4_e2m1fn"):
        return 4
    if dtype in ("int2", "uint2"):
        return 2
    return int(jax.numpy.dtype(dtype).itemsize) * 8


def key_path(path: tuple[Any, ...]) -> str:
    """`layers/0/mlp/up/kernel` from JAX's key path; NNX's trailing `.value` is dropped."""
    parts = [str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in path]
    if parts and parts[-1] == "value":
        parts.pop()
    return "/".join(parts)


def leaves_of(tree: Any, kind: Literal["weights", "cache"] = "weights") -> tuple[Leaf, ...]:
    """The leaves of a tree of arrays or `jax.ShapeDtypeStruct`s, in JAX's order."""
    prefix = "cache/" if kind == "cache" else ""
    return tuple(
        Leaf(
            path=prefix + key_path(path),
            shape=tuple(x.shape),
            dtype=jax.numpy.dtype(x.dtype).name,
            kind=kind,
        )
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    )
