"""Batch-1 products, natively where it can be: `matvec` for weights, `attend` for the KV cache.

Both take stacks of all layers' weights and caches too, with the number of a layer: XLA would copy
its slices out of the stacks first. `rms_norm` is what a step has most often between them.

The native form is chosen when a function is traced for the CPU and the library for this machine
has been built; everywhere else `matvec` is a plain JAX product.
"""

import ctypes
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from kernels.library import library

MATVEC = "emu_matvec"
MATVEC_OF_STACK = "emu_matvec_of_stack"
ATTEND = "emu_attend"
ATTEND_IN_STACK = "emu_attend_in_stack"
READ = "emu_read"
RMS_NORM = "emu_rms_norm"

Matrix = jax.Array | tuple[jax.Array, jax.Array]
"""float32 or bfloat16 [out, in], or int8 [out, in] with its float32 scale [out]."""


@functools.cache
def available() -> bool:
    """Whether the native products are there for the CPU of this machine; loads them once."""
    path = library()
    if not path.exists():
        return False
    handle = ctypes.cdll.LoadLibrary(str(path))
    for target in (MATVEC, MATVEC_OF_STACK, ATTEND, ATTEND_IN_STACK, RMS_NORM, READ):
        capsule = jax.ffi.pycapsule(getattr(handle, target))
        jax.ffi.register_ffi_target(target, capsule, platform="cpu")
    return True


def _load() -> None:
    if not available():
        raise RuntimeError("the native products are not built here: python -m kernels.build")


def native() -> bool:
    """Whether a function traced now would use the native products.

    Not where the CPU is several devices: XLA cannot partition a call out of its program.
    """
    return jax.default_backend() == "cpu" and jax.device_count() == 1 and available()


def matvec(
    x: jax.Array, matrices: Sequence[Matrix], layer: jax.Array | None = None
) -> tuple[jax.Array, ...]:
    """Multiply every matrix with x.

    Args:
      x: float32 [in].
      matrices: each [out_i, in]; see `Matrix`.
      layer: int32 []; the matrices (and their scales) are then stacks [layers, …], of which the
        products are with this one's. Numbers outside are taken to be the nearest.

    Returns:
      float32 [out_i] for each matrix. Weights are converted exactly and sums are in float32, so
      the native and the plain form differ only in the order of the summation.
    """
    if native():
        return _native(x, matrices, layer)
    if layer is not None:
        matrices = jax.tree.map(
            lambda stack: jax.lax.dynamic_index_in_dim(stack, layer, keepdims=False), matrices
        )
    return tuple(plain(x, matrix) for matrix in matrices)


def plain(x: jax.Array, matrix: Matrix) -> jax.Array:
    """The same product in plain JAX: x [..., in] times [out, in] gives [..., out] in x's dtype.

    Operands are in x's dtype too; sums are as wide as the backend makes them, at least as x.
    """
    weight, scale = matrix if isinstance(matrix, tuple) else (matrix, None)
    y = jax.lax.dot_general(
        x,
        weight.astype(x.dtype),
        (((x.ndim - 1,), (1,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=x.dtype,
    )
    return (y if scale is None else y * scale).astype(x.dtype)


def _native(
    x: jax.Array, matrices: Sequence[Matrix], layer: jax.Array | None = None
) -> tuple[jax.Array, ...]:
    operands: list[jax.Array] = []
    results = []
    for matrix in matrices:
        weight, *scale = matrix if isinstance(matrix, tuple) else (matrix,)
        operands += [weight, *scale]
        results.append(jax.ShapeDtypeStruct((weight.shape[-2],), jnp.float32))
    target, which = (MATVEC, ()) if layer is None else (MATVEC_OF_STACK, (layer,))
    return tuple(jax.ffi.ffi_call(target, tuple(results))(x, *which, *operands))


def attend(
    q: jax.Array,
    key: jax.Array,
    value: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    position: jax.Array,
    angles: jax.Array,
    layer: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Rotate one token, append it to one sequence's cache in place, attend; native only.

    Args:
      q: float32 [heads, head_width]; heads is a multiple of kv_heads.
      key, value: float32 [kv_heads, head_width], of the new token.
      keys, values: float32 or bfloat16 [1, kv_heads, length, head_width].
      position: int32 [1], tokens that the cache holds without the new one.
      angles: float32 [2, head_width / 2], the cosines and sines that q and key are turned by.
      layer: int32 []; keys and values are then stacks [layers, 1, …], of which it takes this one's.

    Returns:
      float32 [heads, head_width], softmax(q·keys / √head_width)·values over the tokens held and
      the new one, with q and key rotated; and the caches with the new token in slot `position`.
    """
    _load()
    call = jax.ffi.ffi_call(
        ATTEND if layer is None else ATTEND_IN_STACK,
        (
            jax.ShapeDtypeStruct(q.shape, jnp.float32),
            jax.ShapeDtypeStruct(keys.shape, keys.dtype),
            jax.ShapeDtypeStruct(values.shape, values.dtype),
        ),
        input_output_aliases={3: 1, 4: 2},
    )
    which = () if layer is None else (layer,)
    mixed, keys, values = call(q, key, value, keys, values, position, angles, *which)
    return mixed, keys, values


def read(buffer: jax.Array) -> jax.Array:
    """Stream an array of any shape once, on the products' threads: their limit; native only.

    Returns:
      uint32 [], the XOR of its 32-bit words, so that no byte can be skipped.
    """
    _load()
    call = jax.ffi.ffi_call(READ, jax.ShapeDtypeStruct((), jnp.uint32))
    folded: jax.Array = call(buffer)
    return folded


def rms_norm(x: jax.Array, scale: jax.Array, epsilon: float) -> jax.Array:
    """Scale each row of x to unit root mean square, then by a learnt factor; native only.

    XLA:CPU makes four loops of it, each of which takes longer to start than to run.

    Args:
      x: float32 [..., width].
      scale: float32 [width].
      epsilon: added to the mean square.

    Returns:
      float32, in x's shape.
    """
    _load()
    call = jax.ffi.ffi_call(RMS_NORM, jax.ShapeDtypeStruct(x.shape, jnp.float32))
    scaled: jax.Array = call(x, scale, epsilon=np.float32(epsilon))
    return scaled
