"""Bytes and FLOPs of small functions, derived by hand in the comments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu.tracing import trace

Shape = jax.ShapeDtypeStruct
F32, BF16, I32 = jnp.float32, jnp.bfloat16, jnp.int32


@pytest.mark.newest
def test_a_product_reads_its_weights_and_activations_once():
    work = trace(lambda w, x: x @ w, Shape((64, 32), BF16), Shape((4, 64), BF16))
    assert work.flops == work.dot_flops == 2 * 4 * 64 * 32
    assert work.flops_by_dtype == {"bfloat16": 2 * 4 * 64 * 32}
    assert work.weight_bytes == 2 * 64 * 32
    assert work.activation_bytes == 2 * (4 * 64 + 4 * 32)  # x in, product out
    assert work.peak_activation_bytes == 2 * (4 * 64 + 4 * 32)
    assert work.kernels == 1
    (op,) = work.ops
    assert (op.dot.batch, op.dot.m, op.dot.n, op.dot.k) == (1, 4, 32, 64)
    (read,) = [access for access in op.reads if access.kind == "weights"]
    assert (read.tensor, read.rows, read.contracted) == ("weights", (0, 64), (0,))


def test_leaves_are_named_by_key_path():
    weights = {"a": [Shape((2,), F32), Shape((3,), F32)], "b": {"value": Shape((4,), F32)}}
    cache = {"k": Shape((5, 6), "int8")}
    work = trace(lambda w, c: w["a"][0] * 2, weights, cache, cache=1)
    assert [leaf.path for leaf in work.leaves] == ["a/0", "a/1", "b", "cache/k"]
    assert work.bytes_by_leaf == {"a/0": 8, "a/1": 0, "b": 0, "cache/k": 0}
    both = trace(lambda w, v: w["x"] + v["x"], *[{"x": Shape((2,), F32)}] * 2, weights=(0, 1))
    assert [leaf.path for leaf in both.leaves] == ["0/x", "1/x"]


def test_the_scope_and_the_line_are_those_of_the_caller():
    def model(w, x):
        with jax.named_scope("decoder"), jax.named_scope("mlp"):
            return x @ w

    (op,) = trace(model, Shape((4, 4), F32), Shape((1, 4), F32)).ops
    assert op.scope == "decoder/mlp"
    assert op.line.startswith("test_trace_counts.py:")
    assert "model" in op.line


def test_scopes_of_calls_stand_in_front():
    @jax.jit
    def inner(w, x):
        with jax.named_scope("product"):
            return x @ w

    def model(w, x):
        with jax.named_scope("decoder"):
            return inner(w, x)

    (op,) = trace(model, Shape((4, 4), F32), Shape((1, 4), F32)).ops
    assert op.scope == "decoder/inner/product"


@pytest.mark.parametrize("view", ["transpose", "reshape", "reversed", "convert", "whole slice"])
def test_a_view_costs_nothing_and_the_product_reads_what_is_stored(view):
    views = {
        "transpose": lambda w: w.T,
        "reshape": lambda w: w.reshape(32, 64).reshape(4, 8, 2, 32).reshape(32, 64),
        "reversed": lambda w: w.T[::-1],
        "convert": lambda w: w.T.astype(F32),
        "whole slice": lambda w: w.T[:, :],
    }
    work = trace(lambda w, x: x @ views[view](w), Shape((64, 32), BF16), Shape((4, 32), F32))
    assert work.weight_bytes == 2 * 64 * 32
    assert work.kernels == 1


def test_a_fused_matrix_is_charged_by_the_part_that_is_used():
    # One matrix holds q (64 columns), k (16) and v (16); v is not used.
    def attend(w, x):
        return (x @ w[:, :64]).sum() + (x @ w[:, 64:80]).sum()

    work = trace(attend, Shape((32, 96), F32), Shape((1, 32), F32))
    assert work.weight_bytes == 4 * 32 * (64 + 16)
    split_after = trace(
        lambda w, x: [y.sum() for y in jnp.split(x @ w, [64, 80], axis=-1)],
        Shape((32, 96), F32),
        Shape((1, 32), F32),
    )
    assert split_after.weight_bytes == 4 * 32 * 96


def test_rows_say_which_part_of_the_leading_axis_is_read():
    def two_layers(w, x):
        return x @ w[1] @ w[4]

    work = trace(two_layers, Shape((6, 8, 8), F32), Shape((1, 8), F32))
    reads = [a for op in work.ops for a in op.reads if a.kind == "weights"]
    assert [(a.rows, a.bytes) for a in reads] == [((1, 2), 256), ((4, 5), 256)]


@pytest.mark.newest
def test_an_embedding_reads_the_rows_that_it_needs_once():
    def embed(w, tokens):
        x = w[tokens]
        return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True)) + x

    work = trace(embed, Shape((1000, 16), BF16), Shape((2, 3), I32))
    assert work.weight_bytes == 2 * 6 * 16  # six rows, however often they are used
    assert work.kernels == 1
    taken = trace(lambda w, t: jnp.take(w, t, axis=0), Shape((1000, 16), BF16), Shape((2, 3), I32))
    assert taken.weight_bytes == 2 * 6 * 16
    # More tokens than rows read no more than there is.
    full = trace(embed, Shape((10, 16), BF16), Shape((2, 30), I32))
    assert full.weight_bytes == 2 * 10 * 16


def test_a_tied_embedding_is_read_as_the_function_reads_it():
    def model(w, token):
        return w[token] @ w.T

    work = trace(model, Shape((1000, 16), F32), Shape((1,), I32))
    assert work.weight_bytes == 4 * (16 + 1000 * 16)
    twice = trace(lambda w, x: (x @ w) @ w, Shape((8, 8), F32), Shape((1, 8), F32))
    assert twice.weight_bytes == 4 * 2 * 64


def test_int8_with_scales_is_charged_as_stored():
    def product(w, x):
        return x @ (w["codes"].astype(BF16) * w["scale"].astype(BF16))

    weights = {"codes": Shape((64, 32), "int8"), "scale": Shape((32,), F32)}
    work = trace(product, weights, Shape((4, 64), BF16))
    assert work.bytes_by_leaf == {"codes": 64 * 32, "scale": 4 * 32}
    assert work.dot_flops == 2 * 4 * 64 * 32
    assert work.flops == work.dot_flops + 64 * 32  # and one product by the scale per weight
    assert work.kernels == 1  # done on the way into the product


@pytest.mark.parametrize(
    ("dtype", "size"),
    [("float8_e4m3fn", 64 * 32), ("float8_e5m2", 64 * 32), ("int4", 64 * 32 // 2)],
)
def test_narrow_types_are_charged_as_stored(dtype, size):
    work = trace(lambda w, x: x @ w.astype(BF16), Shape((64, 32), dtype), Shape((4, 64), BF16))
    assert work.weight_bytes == size


@pytest.mark.newest
def test_blocks_with_a_scale_each_are_charged_as_stored():
    # int4 codes in blocks of 16 along the summed axis, a float8 scale per block.
    def product(w, x):
        blocks = w["codes"].reshape(4, 16, 32).astype(F32)
        return x @ (blocks * w["scale"].astype(F32)[:, None, :]).reshape(64, 32)

    weights = {"codes": Shape((64, 32), "int4"), "scale": Shape((4, 32), "float8_e4m3fn")}
    work = trace(product, weights, Shape((1, 64), F32))
    assert work.bytes_by_leaf == {"codes": 64 * 32 // 2, "scale": 4 * 32}


def test_scales_and_zeros_of_packed_groups_are_charged_as_stored():
    # Two int4 codes to a byte, a bfloat16 scale and zero for each 32 along the summed axis.
    def product(w, x):
        codes = jax.lax.bitcast_convert_type(w["codes"], jnp.int4).reshape(16, 4, 32).astype(F32)
        wide = codes * w["scale"].astype(F32)[..., None] + w["zero"].astype(F32)[..., None]
        return x @ wide.reshape(16, 128).T

    groups = Shape((16, 4), BF16)
    weights = {"codes": Shape((16, 64), "uint8"), "scale": groups, "zero": groups}
    work = trace(product, weights, Shape((1, 128), F32))
    assert work.bytes_by_leaf == {"codes": 16 * 64, "scale": 2 * 64, "zero": 2 * 64}
    assert work.dot_flops == 2 * 16 * 128
    assert work.kernels == 1


def test_packed_codes_looked_up_in_a_table_are_charged_as_stored():
    # mxfp4 as files hold it: two codes to a byte, a table of 16 values, an exponent per block.
    table = jnp.asarray(np.linspace(-6, 6, 16), F32)

    def product(w, x):
        codes = jnp.stack([w["codes"] & 15, w["codes"] >> 4], axis=1).reshape(64, 32)
        scale = jnp.exp2(w["exponent"].astype(F32) - 127)
        values = table[codes].reshape(2, 32, 32) * scale[:, None, :]
        return x @ values.reshape(64, 32)

    weights = {"codes": Shape((32, 32), "uint8"), "exponent": Shape((2, 32), "uint8")}
    work = trace(product, weights, Shape((1, 64), F32))
    assert work.bytes_by_leaf == {"codes": 32 * 32, "exponent": 2 * 32}
    unpacked = trace(
        lambda w, x: x @ jax.lax.bitcast_convert_type(w, jnp.int4).reshape(64, 32).astype(F32),
        Shape((32, 32), "uint8"),
        Shape((1, 64), F32),
    )
    assert unpacked.weight_bytes == 32 * 32


def test_half_of_a_block_scaled_matrix_takes_half_of_its_scales():
    def half(w, x):
        values = w["codes"].reshape(4, 16, 32).astype(F32) * w["scale"][:, None, :]
        return x @ values.reshape(64, 32)[:32]

    weights = {"codes": Shape((64, 32), "int8"), "scale": Shape((4, 32), F32)}
    work = trace(half, weights, Shape((1, 32), F32))
    assert work.bytes_by_leaf == {"codes": 32 * 32, "scale": 4 * 2 * 32}


def test_a_norm_reads_its_scale_and_is_one_kernel():
    def norm(scale, x):
        return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6) * scale

    work = trace(norm, Shape((64,), F32), Shape((2, 64), F32))
    assert work.weight_bytes == 4 * 64
    assert work.activation_bytes == 4 * 2 * (2 * 64)  # x in, normalised out
    assert work.kernels == 1
    # Squares 128, sums 128 - 2, divisions 2, additions 2, roots 2, and two products of 128.
    assert work.flops == 128 + 126 + 2 + 2 + 2 + 128 + 128


def test_what_a_kernel_keeps_to_itself_does_not_cross_memory():
    def mlp(w, x):
        gate, up = x @ w["gate"], x @ w["up"]
        return (jax.nn.silu(gate) * up) @ w["down"]

    weights = {k: Shape((32, 32), F32) for k in ("gate", "up", "down")}
    work = trace(mlp, weights, Shape((1, 32), F32))
    # Three products (in and out: 2 x 128 bytes each), and one kernel for silu and the product:
    # gate and up in, hidden out.
    assert work.activation_bytes == 3 * 256 + 3 * 128
    assert work.kernels == 4
    # gate, up and hidden at once; x is last read by up's product, with gate and up there.
    assert work.peak_activation_bytes == 3 * 128


def test_softmax_is_one_kernel_that_reads_and_writes_once():
    work = trace(jax.nn.softmax, Shape((4, 256), F32), weights=None)
    assert work.kernels == 1
    assert work.activation_bytes == 2 * 4 * 4 * 256


def test_results_that_are_weights_are_not_copied_but_parts_and_functions_of_them_are():
    weights = Shape((8, 8), F32)
    assert trace(lambda w: w, weights).weight_bytes == 0
    part = trace(lambda w: w[:2], weights)
    assert (part.weight_bytes, part.activation_bytes) == (64, 64)
    doubled = trace(lambda w: w * 2, weights)
    assert (doubled.weight_bytes, doubled.activation_bytes) == (256, 256)


def test_equations_that_nothing_needs_are_not_counted():
    def wasteful(w, x):
        unused = x @ w["unused"]
        del unused
        return jax.jit(lambda w, x: (x @ w["used"], x @ w["unused"]))(w, x)[0]

    weights = {"used": Shape((8, 8), F32), "unused": Shape((8, 8), F32)}
    work = trace(wasteful, weights, Shape((1, 8), F32))
    assert work.bytes_by_leaf == {"unused": 0, "used": 256}
    assert work.flops == 2 * 64


def test_large_arrays_closed_over_are_read_and_noted_small_ones_are_constants():
    big, small = jnp.ones((256, 256)), jnp.ones((4, 4))
    work = trace(lambda x: x @ big, Shape((1, 256), F32), weights=None)
    assert work.activation_bytes == 4 * (256 + 256 * 256 + 256)
    assert "closed over" in work.notes[0]
    work = trace(lambda x: x @ small, Shape((1, 4), F32), weights=None)
    assert work.activation_bytes == 4 * (4 + 4)
    assert work.notes == ()
