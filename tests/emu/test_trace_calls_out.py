"""Kernels that are not XLA's: foreign ones by a rule, Pallas ones by their body and grid."""

import jax
import jax.experimental.pallas as pl
import jax.numpy as jnp
import pytest

from emu.costs import Cost, cost_rule
from emu.errors import EmuError
from emu.tracing import trace
from kernels.products import _native, attend

Shape = jax.ShapeDtypeStruct
F32 = jnp.float32


@cost_rule("ffi_call", name="test_matvec")
def matvec(call):
    out, width = call.inputs[1].dims
    assert call.params["transposed"] == 1
    return Cost(flops={"float32": 2 * out * width})


def call_matvec(w, x):
    call = jax.ffi.ffi_call("test_matvec", Shape((w["codes"].shape[0],), F32))
    return call(x, w["codes"], w["scale"], transposed=1)


def test_a_foreign_kernel_has_the_cost_that_its_rule_gives():
    weights = {"codes": Shape((32, 64), "int8"), "scale": Shape((32,), F32)}
    work = trace(call_matvec, weights, Shape((64,), F32))
    assert work.flops == 2 * 32 * 64
    assert work.bytes_by_leaf == {"codes": 32 * 64, "scale": 4 * 32}
    assert work.activation_bytes == 4 * (64 + 32)
    assert work.kernels == 1


def test_a_foreign_kernel_cannot_dequantise_on_the_way_in():
    def model(w, x):
        weights = {"codes": w["codes"].astype(F32) * 2, "scale": w["scale"]}
        return call_matvec(weights, x)

    weights = {"codes": Shape((32, 64), "int8"), "scale": Shape((32,), F32)}
    work = trace(model, weights, Shape((64,), F32))
    assert work.bytes_by_leaf["codes"] == 32 * 64
    assert work.kernels == 2
    # Written out as float32, and read back by the kernel.
    assert work.activation_bytes == 4 * (64 + 32) + 2 * 4 * 32 * 64


def test_rules_may_say_what_is_read_and_what_is_updated_in_place():
    @cost_rule("ffi_call", name="test_append")
    def append(call):
        return Cost(writes={0: call.inputs[1].size}, in_place={0: 0})

    @cost_rule("ffi_call", name="test_attend")
    def attend(call):
        return Cost(flops={"float32": 8}, reads={0: 10 * call.inputs[0].dims[1]})

    def step(cache, new):
        cache = jax.ffi.ffi_call("test_append", Shape((64, 8), F32))(cache, new)
        return jax.ffi.ffi_call("test_attend", Shape((8,), F32))(cache, new), cache

    work = trace(step, Shape((64, 8), F32), Shape((8,), F32), weights=None, cache=0)
    assert (work.cache_bytes, work.cache_written_bytes) == (4 * 10 * 8, 4 * 8)


def test_a_jitted_function_can_be_given_a_cost_of_its_own():
    @jax.jit
    def test_secret_sauce(x):
        return jnp.sin(x)

    cost_rule("jit", name="test_secret_sauce")(lambda call: Cost(flops={"int8": 7}))
    work = trace(test_secret_sauce, Shape((8,), F32), weights=None)
    assert work.flops_by_dtype == {"int8": 7}


def test_rules_that_are_no_rules_are_refused():
    with pytest.raises(EmuError, match=r"flops\['float32'\] must be a count .* not 2.5"):
        Cost(flops={"float32": 2.5})
    with pytest.raises(EmuError, match="such as 'bfloat16', and 3 is none"):
        Cost(flops={3: 1})
    with pytest.raises(EmuError, match="such as 'bfloat16', and 'bf16' is none"):
        Cost(flops={"bf16": 2})
    with pytest.raises(EmuError, match=r"writes\[0\] must be a count"):
        Cost(writes={0: -1})
    with pytest.raises(EmuError, match="named by a string"):
        cost_rule(jax.lax.sin_p)
    cost_rule("ffi_call", name="test_wrong")(lambda call: 5)
    with pytest.raises(EmuError, match=r"cost_rule of ffi_call: must return an emu.Cost, not 5"):
        trace(jax.ffi.ffi_call("test_wrong", Shape((8,), F32)), Shape((8,), F32))
    cost_rule("ffi_call", name="test_wrong")(lambda call: Cost(reads={1: 8}))
    with pytest.raises(EmuError, match=r"reads names input 1 of 1 \(from 0 on\)"):
        trace(jax.ffi.ffi_call("test_wrong", Shape((8,), F32)), Shape((8,), F32))
    cost_rule("ffi_call", name="test_wrong")(lambda call: Cost(in_place={2: 0}))
    with pytest.raises(EmuError, match="in_place names output 2 of 1"):
        trace(jax.ffi.ffi_call("test_wrong", Shape((8,), F32)), Shape((8,), F32))


def product(x_ref, w_ref, out_ref):
    out_ref[...] = x_ref[...] @ w_ref[...]


@pytest.mark.newest
def test_a_pallas_kernel_is_its_body_times_its_grid():
    def model(w, x):
        return pl.pallas_call(
            product,
            grid=(4, 2),
            in_specs=[
                pl.BlockSpec((8, 16), lambda i, j: (i, 0)),
                pl.BlockSpec((16, 8), lambda i, j: (0, j)),
            ],
            out_specs=pl.BlockSpec((8, 8), lambda i, j: (i, j)),
            out_shape=Shape((32, 16), F32),
        )(x, w)

    work = trace(model, Shape((16, 16), F32), Shape((32, 16), F32))
    assert work.flops == 8 * (2 * 8 * 16 * 8)
    assert work.kernels == 1
    # x's block changes with i alone: 4 fetches of 8 x 16. w's changes at each of the 8 steps:
    # 8 fetches of 16 x 8, four times the matrix. The result is written once.
    assert work.weight_bytes == 4 * 8 * 16 * 8
    assert work.activation_bytes == 4 * (4 * 8 * 16 + 32 * 16)


def test_a_pallas_kernel_with_scratch_loops_and_conditions():
    def body(x_ref, out_ref):
        @pl.when(pl.program_id(0) == 0)
        def _():
            out_ref[...] = jnp.zeros_like(out_ref)

        def add(i, total):
            return total + x_ref[i, :] * 2

        total = jax.lax.fori_loop(0, 4, add, jnp.zeros((8,), F32))
        out_ref[...] += total

    def model(x):
        return pl.pallas_call(
            body,
            grid=(3,),
            in_specs=[pl.BlockSpec((4, 8), lambda i: (i, 0))],
            out_specs=pl.BlockSpec((8,), lambda i: (0,)),
            out_shape=Shape((8,), F32),
        )(x)

    work = trace(model, Shape((12, 8), F32), weights=None)
    assert work.flops == 3 * (4 * 16 + 8)
    assert work.activation_bytes == 4 * (12 * 8 + 8)  # the output's block stays for all steps


def test_a_pallas_kernel_with_memory_of_its_own():
    def body(x_ref, out_ref):
        def with_scratch(total_ref):
            total_ref[...] = x_ref[...] * 2
            out_ref[...] = total_ref[...] + 1

        pl.run_scoped(with_scratch, pl.MemoryRef(jax.core.ShapedArray((8,), F32), pl.ANY))

    call = pl.pallas_call(body, out_shape=Shape((8,), F32))
    work = trace(call, Shape((8,), F32), weights=None)
    assert (work.flops, work.activation_bytes) == (16, 64)


def test_the_native_products_read_weights_as_stored_and_the_tokens_in_the_cache(monkeypatch):
    monkeypatch.setattr("kernels.products._load", lambda: None)  # traced only: need not be built

    def step(w, cache, x, position):
        q, k, v = _native(x, [(w["codes"], w["scale"]), w["k"], w["k"]])
        heads = (q.reshape(4, 8), k.reshape(2, 8), v.reshape(2, 8))
        angles = jnp.zeros((2, 4))
        mixed, keys, values = attend(*heads, cache["keys"], cache["values"], position, angles)
        return mixed, {"keys": keys, "values": values}

    weights = {
        "codes": Shape((32, 64), "int8"),
        "scale": Shape((32,), F32),
        "k": Shape((16, 64), "bfloat16"),
    }
    cache = {name: Shape((1, 2, 128, 8), "bfloat16") for name in ("keys", "values")}
    arguments = weights, cache, Shape((64,), F32), Shape((1,), "int32")
    work = trace(step, *arguments, cache=1, hints={"context": 10})
    assert work.bytes_by_leaf == {
        "codes": 32 * 64,
        "scale": 4 * 32,
        "k": 2 * 2 * 16 * 64,  # twice: once for k, once for v
        "cache/keys": 2 * 2 * 10 * 8,
        "cache/values": 2 * 2 * 10 * 8,
    }
    assert work.cache_written_bytes == 2 * (2 * 2 * 8)
    # The products; and 4 heads' scores over 10 tokens, and the mix.
    assert work.dot_flops == 2 * (32 + 16 + 16) * 64 + 2 * (2 * 4 * 10 * 8)
    assert work.notes == ()
    whole = trace(step, *arguments, cache=1)
    assert whole.bytes_by_leaf["cache/keys"] == 2 * 2 * 128 * 8
