"""Decode steps of a decoder's layers in one Pallas kernel, for TPUs: weights that stay in VMEM.

A TPU's on-chip memory is a scratchpad, not a cache: between two programs nothing stays in it. So
several steps are one program. The first `resident` layers' matrices are copied into VMEM once, at
the first step, and each later step reads them there; the other layers' are streamed from HBM at
each step, block by block, one block being copied while the one before is multiplied
(`pltpu.emit_pipeline`). What is computed is the layer of the Llama family: RMSNorm, grouped-query
attention with RoPE over a KV cache, a gated MLP; one sequence, one token a step.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

MATRICES = ("q", "k", "v", "o", "gate", "up", "down")
BLOCK_BYTES = 2**21  # of a streamed block, if it can be; two of a matrix are in VMEM at a time
REST_BYTES = 2**24  # of VMEM for all but the resident layers: what a kernel has if nothing is said
LANES = 128


class Layers(NamedTuple):
    """Weights of all layers, stacked; kernels [layers, out, in], norms [layers, width]."""

    q: jax.Array
    k: jax.Array
    v: jax.Array
    o: jax.Array
    gate: jax.Array
    up: jax.Array
    down: jax.Array
    attention_norm: jax.Array
    mlp_norm: jax.Array

    @property
    def matrices(self) -> tuple[jax.Array, ...]:
        """The kernels, in the order of `MATRICES`."""
        return self[: len(MATRICES)]


def room_bytes() -> int:
    """What the layers that stay in VMEM may take of it, on JAX's TPU; 0 where none is known of.

    A kernel runs on one core, so on a chip of two it is that core's.
    """
    try:
        told = int(pltpu.get_tpu_info().vmem_capacity_bytes)
    except ValueError:  # a kind that JAX does not know
        return 0
    return max(told - REST_BYTES, 0)


def resident_bytes(layers: Layers, resident: int) -> int:
    """What the resident layers' matrices take of VMEM, where arrays are in whole tiles."""
    return resident * sum(
        tiled_bytes(m.shape[1], m.shape[2], m.dtype.itemsize) for m in layers.matrices
    )


def streamed_bytes(layers: Layers) -> int:
    """What the blocks of a streamed matrix take of VMEM at a time: two, of the largest."""
    sizes = [(m.shape[1], m.shape[2], m.dtype.itemsize) for m in layers.matrices]
    return 2 * max(tiled_bytes(_block(r, c * size), c, size) for r, c, size in sizes)


def tiled_bytes(rows: int, columns: int, itemsize: int) -> int:
    """What a matrix takes: tiles are of 8 rows and 128 lanes of 32 bits, narrower ones of more."""
    tall = 8 * 4 // itemsize
    return -(-rows // tall) * tall * -(-columns // LANES) * LANES * itemsize


def decode_layers(
    layers: Layers,
    keys: jax.Array,
    values: jax.Array,
    hidden: jax.Array,
    angles: jax.Array,
    slots: jax.Array,
    *,
    resident: int,
    epsilon: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Steps one after the other, each through all layers.

    Args:
      layers: weights in float32 or bfloat16, norms in float32.
      keys, values: float32 [layers, kv_heads, slots, head_width], the cache, updated in place.
      hidden: float32 [steps, width], what goes in at each step.
      angles: float32 [steps, 2, head_width], cosines and sines of the steps' positions, each for
        both halves of a head.
      slots: int32 [steps], where each step's keys and values go, below the cache's slots; a step
        attends to all slots up to its own.
      resident: how many layers, the first ones, stay in VMEM. The TPU's compiler refuses more than
        there is room for; `REST_BYTES` are left for all else, the cache twice among it.
      epsilon: of the norms.

    Without a TPU it runs within `pltpu.force_tpu_interpret_mode()`.

    Returns:
      float32 [steps, width], what comes out of the last layer at each step; the keys; the values.
    """
    count, kv_heads, _, head_width = keys.shape
    steps, width = hidden.shape
    if not 0 <= resident <= count:
        raise ValueError(f"decode_layers: resident must be 0 to {count} layers, not {resident}")
    vmem, hbm = pl.BlockSpec(memory_space=pltpu.VMEM), pl.BlockSpec(memory_space=pltpu.HBM)
    held = [
        # Without a resident layer, next to nothing: a scratch cannot be empty.
        pltpu.VMEM((resident, *m.shape[1:]) if resident else (1, 8, LANES), m.dtype)
        for m in layers.matrices
    ]
    outs = [pltpu.VMEM((1, m.shape[1]), jnp.float32) for m in layers.matrices]
    kernel = functools.partial(
        _steps, resident=resident, epsilon=epsilon, kv_heads=kv_heads, head_width=head_width
    )
    number = len(MATRICES)
    out, keys, values = pl.pallas_call(
        kernel,
        grid=(steps,),
        in_specs=[
            pl.BlockSpec(memory_space=pltpu.SMEM),
            _of_this_step(1, width),
            _of_this_step(2, head_width),
            *[vmem] * 4,
            *[hbm] * number,
        ],
        out_specs=[_of_this_step(1, width), vmem, vmem],
        out_shape=[
            jax.ShapeDtypeStruct((steps, 1, width), jnp.float32),
            jax.ShapeDtypeStruct(keys.shape, keys.dtype),
            jax.ShapeDtypeStruct(values.shape, values.dtype),
        ],
        scratch_shapes=[held, outs],
        input_output_aliases={5: 1, 6: 2},
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary",),  # one step after the other
            vmem_limit_bytes=resident_bytes(layers, resident) + REST_BYTES,
        ),
        name="persistent_decode_layers",
    )(
        slots,
        hidden[:, None],
        angles,
        layers.attention_norm,
        layers.mlp_norm,
        keys,
        values,
        *layers.matrices,
    )
    return out[:, 0], keys, values


def _of_this_step(rows: int, columns: int) -> pl.BlockSpec:
    """Of [steps, rows, columns] the step's own: the others wait in HBM."""
    return pl.BlockSpec((1, rows, columns), lambda step: (step, 0, 0))


def _steps(
    slots, hidden, angles, attention_norm, mlp_norm, keys_in, values_in, *refs,
    resident, epsilon, kv_heads, head_width,
):  # fmt: skip
    """One step, at its place in the grid; refs: matrices, out, keys, values, held, outs."""
    number = len(MATRICES)
    far = dict(zip(MATRICES, refs[:number], strict=True))
    out, keys, values, held, outs = refs[number:]
    near, results = (dict(zip(MATRICES, r, strict=True)) for r in (held, outs))
    step = pl.program_id(0)

    @pl.when(step == 0)
    def _begin():
        keys[...] = keys_in[...]
        values[...] = values_in[...]
        if resident:
            for name in MATRICES:
                pltpu.sync_copy(far[name].at[pl.ds(0, resident)], near[name])

    here = slots[step]
    cosine, sine = angles[0, 0:1], angles[0, 1:2]

    def kept(name, layer, x):
        return product(x, near[name][layer])

    def streamed(name, layer, x):
        _streamed(far[name].at[layer], x, results[name])
        return results[name][...]

    def of_head(x, head):
        return x[:, head * head_width : (head + 1) * head_width]

    def one(times, layer, x):
        y = _normed(x, attention_norm[pl.ds(layer, 1), :], epsilon)
        q, k, v = (times(name, layer, y) for name in ("q", "k", "v"))
        group = q.shape[1] // head_width // kv_heads
        for head in range(kv_heads):  # all that is written comes before anything is read
            keys[layer, head, pl.ds(here, 1), :] = _turned(of_head(k, head), cosine, sine)
            values[layer, head, pl.ds(here, 1), :] = of_head(v, head)
        mixed = []
        for query in range(group * kv_heads):
            asked, head = _turned(of_head(q, query), cosine, sine), query // group
            mixed.append(_attended(asked, keys[layer, head], values[layer, head], here))
        x = x + times("o", layer, jnp.concatenate(mixed, axis=1))
        y = _normed(x, mlp_norm[pl.ds(layer, 1), :], epsilon)
        gate, up = times("gate", layer, y), times("up", layer, y)
        return x + times("down", layer, gate * jax.nn.sigmoid(gate) * up)

    # Loops, so that what the TPU's compiler has to do does not grow with the layers.
    x = hidden[0]
    if resident:
        x = jax.lax.fori_loop(0, resident, functools.partial(one, kept), x)
    if resident < keys.shape[0]:
        x = jax.lax.fori_loop(resident, keys.shape[0], functools.partial(one, streamed), x)
    out[0] = x


def _streamed(matrix: Any, x: jax.Array, result: Any) -> None:
    """result [1, out] = x [1, in] times a matrix [out, in] in HBM, block by block."""
    rows, columns = matrix.shape
    block = _block(rows, columns * matrix.dtype.itemsize)

    def multiply(part: Any, out: Any) -> None:
        out[...] = product(x, part[...])

    pltpu.emit_pipeline(
        multiply,
        grid=(pl.cdiv(rows, block),),
        in_specs=[pl.BlockSpec((block, columns), lambda i: (i, 0))],
        out_specs=[pl.BlockSpec((1, block), lambda i: (0, i))],
    )(matrix, result)


def _block(rows: int, row_bytes: int) -> int:
    """Rows of a streamed block, in whole lanes: half of all, and of `BLOCK_BYTES`, at the most.

    128 rows may be more than that. The last block has what is left.
    """
    blocks = max(2, pl.cdiv(rows * row_bytes, BLOCK_BYTES))
    return min(rows, max(1, rows // blocks // LANES) * LANES)


def product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """float32 [1, in] times a matrix [out, in], within a kernel: [1, out].

    By multiplying and adding, in float32. The matrix units would read a matrix six times for that
    (`Precision.HIGHEST`), which takes them longer than it takes to fetch the matrix from HBM.
    """
    return jnp.sum(matrix.astype(jnp.float32) * x, axis=1, keepdims=True).T


def _normed(x: jax.Array, scale: jax.Array, epsilon: float) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + epsilon) * scale


def _turned(x: jax.Array, cosine: jax.Array, sine: jax.Array) -> jax.Array:
    """RoPE of one head [1, head_width]: halves change places, the first with its sign."""
    half = x.shape[1] // 2
    swapped = jnp.concatenate([-x[:, half:], x[:, :half]], axis=1)
    return x * cosine + swapped * sine


def _attended(q: jax.Array, keys: jax.Array, values: jax.Array, last: jax.Array) -> jax.Array:
    """Softmax attention of one head over slots up to `last`: [1, head_width]."""
    scores = jnp.sum(keys * q, axis=1, keepdims=True) / math.sqrt(q.shape[1])  # [slots, 1]
    slots = jax.lax.broadcasted_iota(jnp.int32, scores.shape, 0)
    scores = jnp.where(slots <= last, scores, -jnp.inf)
    shares = jnp.exp(scores - jnp.max(scores, axis=0, keepdims=True))
    shares = shares / jnp.sum(shares, axis=0, keepdims=True)
    return jnp.sum(shares * values, axis=0, keepdims=True)
