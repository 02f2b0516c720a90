"""Products whose matrices stay in VMEM, as one Pallas kernel: to time reads from there."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kernels.persistent import REST_BYTES, product, tiled_bytes


def held_products(x: jax.Array, matrices: tuple[jax.Array, ...], repeats: int) -> jax.Array:
    """x times all matrices in turn, so many times over.

    Args:
      x: float32 [side].
      matrices: float32 or bfloat16 [side, side], copied into VMEM once.
      repeats: how often all of them.

    Returns:
      float32 [side], divided by its first entry after each round, so that it neither fades nor
      grows.
    """
    (side,) = x.shape
    number = len(matrices)
    hbm = pl.BlockSpec(memory_space=pltpu.HBM)
    vmem = pl.BlockSpec(memory_space=pltpu.VMEM)
    held_bytes = sum(tiled_bytes(side, side, m.dtype.itemsize) for m in matrices)
    out = pl.pallas_call(
        functools.partial(_round, number=number),
        grid=(repeats,),
        in_specs=[vmem, *[hbm] * number],
        out_specs=vmem,
        out_shape=jax.ShapeDtypeStruct((1, side), jnp.float32),
        scratch_shapes=[pltpu.VMEM((number, side, side), matrices[0].dtype)],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary",), vmem_limit_bytes=held_bytes + REST_BYTES
        ),
        name="held_products",
    )(x[None], *matrices)
    last: jax.Array = out[0]
    return last


def _round(x: Any, *refs: Any, number: int) -> None:
    far, out, near = refs[:number], refs[number], refs[number + 1]

    @pl.when(pl.program_id(0) == 0)
    def _begin() -> None:
        out[...] = x[...]
        for n, matrix in enumerate(far):
            pltpu.sync_copy(matrix, near.at[n])

    y = jax.lax.fori_loop(0, number, lambda n, y: product(y, near[n]), out[...])
    out[...] = y / y[:, 0:1]
