"""Weight formats: how kernels and tables are stored, and what the stored numbers mean.

    float32, bfloat16   as they are
    int8, fp8           one byte (int8, or float8 e4m3) and a float32 scale per row
    int4                four bits and a bfloat16 scale per group of up to 128 in a row
    int4-g32            four bits, and a bfloat16 scale and zero per 32 (as gpt-fast stores them)
    mxfp4               float4 e2m1 and a power of two (e8m0) per 32 (OCP Microscaling formats 1.0)
    nvfp4               float4 e2m1, a float8 e4m3 scale per 16, and a float32 one per matrix

A row is one output channel of a kernel [out, in], or one token's of a table. Four-bit numbers lie
two in a byte (uint8 [out, in / 2]), the earlier one in the lower half. Scales lie beside what they
scale: `kernel_scale`, and `kernel_tensor_scale` for the one per matrix. All rounding is symmetric
and to the nearest, so that weight ≈ stored number × scales.
"""

import math

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from models.errors import ModelError

FORMATS = ("float32", "bfloat16", "int8", "fp8", "int4", "int4-g32", "mxfp4", "nvfp4")
SCALE, TENSOR_SCALE, ZERO = "_scale", "_tensor_scale", "_zero"
MLPS_ALONE = "-moe"
_PLAIN = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
_LARGEST_FP8, _LARGEST_FP4 = 448.0, 6.0
_LARGEST_FP4_POWER = 2  # of two, in float4 e2m1


def check_format(name: str) -> None:
    """Raises ModelError unless there is such a format, or a narrow one for the MLPs alone."""
    asked, known = name, list(FORMATS)
    if name.endswith(MLPS_ALONE):
        name = name.removesuffix(MLPS_ALONE)
        known = [form for form in FORMATS if is_narrow(form)]
    if name not in known:
        raise ModelError(
            f"weights dtype must be {', '.join(FORMATS)}, or a narrow one followed by "
            f"{MLPS_ALONE}, not {asked!r}"
        )


def is_narrow(name: str) -> bool:
    """Whether a format has less than 16 bits a number."""
    return name not in _PLAIN


def stored_shapes(shape: tuple[int, ...], form: str) -> dict[str, jax.ShapeDtypeStruct]:
    """What a kernel [..., out, in] is stored as, by suffix ('' for the numbers themselves).

    Raises ModelError where the rows cannot be cut into the format's groups.
    """
    rows, (columns,) = shape[:-1], shape[-1:]
    if form in _PLAIN:
        return {"": jax.ShapeDtypeStruct(shape, _PLAIN[form])}
    if form in ("int8", "fp8"):
        dtype = jnp.int8 if form == "int8" else jnp.float8_e4m3fn
        return {
            "": jax.ShapeDtypeStruct(shape, dtype),
            SCALE: jax.ShapeDtypeStruct(rows, jnp.float32),
        }
    group, scale_dtype = _group(columns, form), _SCALE_DTYPES[form]
    stored = {
        "": jax.ShapeDtypeStruct((*rows, columns // 2), jnp.uint8),
        SCALE: jax.ShapeDtypeStruct((*rows, columns // group), scale_dtype),
    }
    if form == "nvfp4":
        stored[TENSOR_SCALE] = jax.ShapeDtypeStruct(shape[:-2], jnp.float32)
    if form == "int4-g32":
        stored[ZERO] = stored[SCALE]
    return stored


_SCALE_DTYPES = {
    "int4": jnp.bfloat16,
    "int4-g32": jnp.bfloat16,
    "mxfp4": jnp.float8_e8m0fnu,
    "nvfp4": jnp.float8_e4m3fn,
}


def quantize(weights: np.ndarray, form: str) -> dict[str, np.ndarray]:
    """Round float weights [..., out, in] to a format: arrays as `stored_shapes` has them."""
    stored_shapes(weights.shape, form)  # refuses rows that cannot be cut
    if form in _PLAIN:
        wanted = np.float32 if form == "float32" else ml_dtypes.bfloat16
        return {"": weights.astype(wanted, copy=False)}
    weights = weights.astype(np.float32, copy=False)
    if form in ("int8", "fp8"):
        scale, scaled = _scaled(weights, 127.0 if form == "int8" else _LARGEST_FP8)
        if form == "int8":
            scaled = np.clip(np.rint(scaled), -127, 127)
        return {"": scaled.astype(stored_shapes(weights.shape, form)[""].dtype), SCALE: scale}
    grouped = weights.reshape(*weights.shape[:-1], -1, _group(weights.shape[-1], form))
    if form == "int4-g32":
        return _between_extremes(grouped, weights.shape)
    most = np.maximum(grouped.max(axis=-1), -grouped.min(axis=-1))
    if form == "int4":
        scale = (most / 7).astype(ml_dtypes.bfloat16)
        codes = np.clip(np.rint(_over(grouped, scale)), -7, 7).astype(np.int8)
        return {"": _packed(codes, weights.shape), SCALE: scale}
    if form == "mxfp4":
        power = np.floor(np.log2(np.where(most > 0, most, 1.0))) - _LARGEST_FP4_POWER
        scale = np.exp2(power).astype(ml_dtypes.float8_e8m0fnu)
        return {"": _packed(_fp4(_over(grouped, scale)), weights.shape), SCALE: scale}
    whole = (most.max(axis=(-1, -2)) / (_LARGEST_FP8 * _LARGEST_FP4)).astype(np.float32)
    relative = _over(most[..., None], whole[..., None, None])[..., 0] / _LARGEST_FP4
    scale = relative.astype(ml_dtypes.float8_e4m3fn)
    together = scale.astype(np.float32) * whole[..., None, None]
    codes = _fp4(_over(grouped, together))
    return {"": _packed(codes, weights.shape), SCALE: scale, TENSOR_SCALE: whole}


def _between_extremes(grouped: np.ndarray, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Four bits for steps between each group's least and largest weight."""
    least = grouped.min(axis=-1)
    scale = ((grouped.max(axis=-1) - least) / 15).astype(ml_dtypes.bfloat16)
    zero = (least + 8 * scale.astype(np.float32)).astype(ml_dtypes.bfloat16)
    moved = grouped - zero.astype(np.float32)[..., None]
    codes = np.clip(np.rint(_over(moved, scale)), -8, 7).astype(np.int8)
    return {"": _packed(codes, shape), SCALE: scale, ZERO: zero}


def widen(
    stored: jax.Array,
    scale: jax.Array | None = None,
    tensor_scale: jax.Array | None = None,
    zero: jax.Array | None = None,
) -> jax.Array:
    """The float32 [..., out, in] that these stored numbers mean."""
    if stored.dtype == jnp.uint8:
        assert scale is not None
        four_bits = jnp.int4 if scale.dtype == jnp.bfloat16 else jnp.float4_e2m1fn
        pairs = jax.lax.bitcast_convert_type(stored, four_bits)
        stored = pairs.reshape(*stored.shape[:-1], -1)
    wide = stored.astype(jnp.float32)
    if scale is None:
        return wide
    if scale.ndim < wide.ndim:
        return wide * scale[..., None]
    factors = scale.astype(jnp.float32)
    if tensor_scale is not None:
        factors = factors * tensor_scale[..., None, None]
    groups = wide.reshape(*factors.shape, -1) * factors[..., None]
    if zero is not None:
        groups = groups + zero.astype(jnp.float32)[..., None]
    return groups.reshape(wide.shape)


def _group(columns: int, form: str) -> int:
    """Numbers that share a scale."""
    sizes = {"int4": (128, 64, 32, 16, 8), "nvfp4": (16,)}.get(form, (32,))
    for size in sizes:
        if columns % size == 0:
            return size
    raise ModelError(
        f"weights dtype {form} needs rows of a multiple of {sizes[-1]} numbers, not {columns}"
    )


def _scaled(weights: np.ndarray, largest: float) -> tuple[np.ndarray, np.ndarray]:
    """A scale for each row, and the rows over it; a row of zeros has scale 0."""
    scale = np.maximum(weights.max(axis=-1), -weights.min(axis=-1)) / np.float32(largest)
    return scale, _over(weights, scale)


def _over(weights: np.ndarray, scale: np.ndarray) -> np.ndarray:
    wide = scale.astype(np.float32)[..., None] if scale.ndim < weights.ndim else scale
    quotient: np.ndarray = weights / np.where(wide > 0, wide, np.float32(1))
    return quotient


def _fp4(scaled: np.ndarray) -> np.ndarray:
    """The four bits of float4 e2m1, one number in a byte."""
    clipped = np.clip(scaled, -_LARGEST_FP4, _LARGEST_FP4)
    codes: np.ndarray = clipped.astype(ml_dtypes.float4_e2m1fn).view(np.int8)
    return codes


def _packed(codes: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Four-bit numbers, one in a byte each, two in a byte: uint8 [..., out, in / 2]."""
    pairs = codes.view(np.uint8).reshape(*shape[:-1], shape[-1] // 2, 2) & 0xF
    assert math.prod(pairs.shape) == math.prod(shape)
    packed: np.ndarray = pairs[..., 0] | (pairs[..., 1] << 4)
    return packed
