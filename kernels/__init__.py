"""Native batch-1 products, called through `jax.ffi`, with the plain JAX fallback."""

from kernels.pages import LargePages
from kernels.products import (
    ATTEND,
    MATVEC,
    Matrix,
    attend,
    available,
    matvec,
    native,
    plain,
    read,
    rms_norm,
)

__all__ = [
    "ATTEND",
    "MATVEC",
    "LargePages",
    "Matrix",
    "attend",
    "available",
    "matvec",
    "native",
    "plain",
    "read",
    "rms_norm",
]
