"""The native products agree with plain JAX, for any size, dtype and number of threads."""

import concurrent.futures
import ctypes
import os
import time
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kernels
from kernels.build import compiler
from kernels.library import library
from tests.waiting import wait_until

pytestmark = pytest.mark.newest

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()

native_only = pytest.mark.skipif(compiler() is None, reason="no C++ compiler on this machine")


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


def stored(weight, dtype):
    if dtype != "int8":
        return weight.astype(dtype)
    scale = jnp.abs(weight).max(axis=1) / 127
    return jnp.round(weight / scale[:, None]).astype(jnp.int8), scale


def test_products_are_native_where_there_is_a_compiler():
    assert kernels.available() == (compiler() is not None)


@native_only
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize(
    ("rows", "width"), [(1, 1), (3, 7), (4, 16), (5, 33), (64, 576), (1000, 129), (2, 5000)]
)
def test_matvec_is_the_plain_product(rows, width, dtype):
    x = random(width, seed=1)
    matrix = stored(random(rows, width), dtype)
    (got,) = jax.jit(lambda x, m: kernels.matvec(x, [m]))(x, matrix)
    # Sums of `width` products of size about 1, in another order: rounding grows as its root.
    chex.assert_trees_all_close(
        got, kernels.plain(x, matrix), atol=3e-6 * width**0.5 * float(jnp.abs(x).max())
    )


@native_only
def test_matvec_takes_matrices_of_several_dtypes_at_once():
    x = random(96, seed=1)
    matrices = [
        stored(random(rows, 96, seed=rows), dtype)
        for rows, dtype in [(40, "int8"), (700, "float32"), (8, "bfloat16"), (1, "int8")]
    ]
    got = jax.jit(kernels.matvec)(x, matrices)
    chex.assert_trees_all_close(got, tuple(kernels.plain(x, m) for m in matrices), atol=1e-4)


@native_only
def test_matvec_repeats_to_the_bit_while_other_threads_call_it():
    x, matrix = random(576, seed=1), random(3072, 576)
    call = jax.jit(lambda x, m: kernels.matvec(x, [m])[0])
    first = np.asarray(call(x, matrix))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for again in pool.map(lambda _: np.asarray(call(x, matrix)), range(64)):
            np.testing.assert_array_equal(again, first)


@native_only
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_products_with_a_layer_of_stacks_are_those_with_that_layer(dtype):
    x = random(40, seed=1)
    layers = [
        [stored(random(rows, 40, seed=rows + n), dtype) for rows in (7, 300)] for n in range(3)
    ]
    stacks = jax.tree.map(lambda *of: jnp.stack(of), *layers)
    call = jax.jit(kernels.matvec)
    for number, meant in [(0, 0), (2, 2), (1, 1), (-5, 0), (7, 2)]:
        got = call(x, stacks, jnp.int32(number))
        chex.assert_trees_all_equal(got, jax.jit(kernels.matvec)(x, layers[meant]))


@native_only
@pytest.mark.parametrize("shape", [(1, 576), (3, 16), (2, 3, 5)])
def test_rms_norm_is_the_formula(shape):
    x, scale = random(*shape), random(shape[-1], seed=1)
    got = jax.jit(lambda x, s: kernels.rms_norm(x, s, 1e-5))(x, scale)
    unit = x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + 1e-5)
    chex.assert_trees_all_close(got, unit * scale, rtol=1e-5, atol=1e-6)


@native_only
@pytest.mark.skipif(not 2 <= CORES <= 16, reason="one core has no helpers, many share none")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_what_follows_at_once_is_expected_and_what_follows_a_pause_is_not(dtype):
    first, second, third = (stored(random(512, 512, seed=s), dtype) for s in range(3))

    @jax.jit
    def step(x, first, second, third):
        (y,) = kernels.matvec(x, [first])
        return kernels.matvec(y, [second, third])

    numbers = [m[0] if dtype == "int8" else m for m in (first, second, third)]
    begins = [m.unsafe_buffer_pointer() for m in numbers]
    expected = ctypes.cdll.LoadLibrary(str(library())).emu_expected
    expected.restype = ctypes.c_int64
    expected.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.POINTER(ctypes.c_void_p)]
    begin = ctypes.c_void_p()

    def called() -> bool:
        jax.block_until_ready(step(random(512), first, second, third))
        time.sleep(1e-3)  # many times what counts as a pause
        return expected(begins[0], 0, ctypes.byref(begin)) > 0

    wait_until(called)  # a busy machine may pause between two products
    nbytes = expected(begins[0], 0, ctypes.byref(begin))
    row = numbers[1].nbytes // 512
    within = [b <= begin.value and begin.value + nbytes <= b + 512 * row for b in begins[1:]]
    assert any(within)
    from_second = begin.value - begins[1] if within[0] else begin.value - begins[2] + 512 * row
    assert from_second % row == 0
    # The second of the threads begins where the first one's share of both matrices ends.
    assert abs(from_second / (2 * 512 * row) - 1 / CORES) < 1 / 16
    assert nbytes <= 2 * 512 * row / CORES + 32 * row
    called()  # or it is not known yet what came after the last product
    assert expected(begins[1], 0, ctypes.byref(begin)) == 0


@native_only
def test_matvec_survives_guesses_at_weights_that_are_gone():
    """What came next the last time is fetched ahead, though its memory may have been given back."""
    call = jax.jit(lambda x, m: kernels.matvec(x, [m])[0])
    x = random(1024, seed=1)
    first = random(2048, 1024)
    for seed in range(20):
        other = np.random.default_rng(seed).standard_normal((2048, 1024), np.float32)
        other = jax.device_put(other)
        for weights in (first, other):
            chex.assert_trees_all_close(call(x, weights), kernels.plain(x, weights), atol=1e-3)
        other.delete()


@native_only
@pytest.mark.parametrize(
    ("x", "matrix", "message"),
    [
        (random(8), jnp.zeros((4, 9)), "not \\[out, in\\]"),
        (random(8), jnp.zeros((4, 8), jnp.float16), "not float32, bfloat16 or int8"),
        (random(8).astype(jnp.bfloat16), jnp.zeros((4, 8)), "x: not float32"),
        (random(8), (jnp.zeros((4, 8), jnp.int8), jnp.ones(3)), "scale"),
        (random(8), (jnp.zeros((4, 8)), jnp.ones(4)), "more arguments"),
    ],
)
def test_matvec_refuses_what_it_cannot_multiply(x, matrix, message):
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        jax.block_until_ready(jax.jit(kernels.matvec)(x, [matrix]))


@native_only
@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (jnp.zeros((4, 8)), "not \\[layers, out, in\\]"),
        (jnp.zeros((2, 4, 9)), "not \\[out, in\\]"),
        ((jnp.zeros((2, 4, 8), jnp.int8), jnp.ones((2, 3))), "scale"),
    ],
)
def test_matvec_refuses_stacks_that_it_cannot_multiply(matrix, message):
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        jax.block_until_ready(jax.jit(kernels.matvec)(random(8), [matrix], jnp.int32(0)))


@native_only
def test_rms_norm_refuses_rows_of_another_length():
    with pytest.raises(jax.errors.JaxRuntimeError, match="rows as long"):
        jax.block_until_ready(
            jax.jit(lambda x, s: kernels.rms_norm(x, s, 0.1))(random(7), random(2))
        )


def rotated(heads, angles):
    first, second = np.split(np.asarray(heads), 2, axis=-1)
    cosine, sine = np.asarray(angles)
    return np.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)


def softmax_attention(q, keys, values):
    """One query [width] over tokens [held, width], in float64."""
    q, keys, values = (np.asarray(a, np.float64) for a in (q, keys, values))
    shares = np.exp(keys @ q / np.sqrt(len(q)))
    return shares @ values / shares.sum()


@native_only
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("width", "held"), [(64, 0), (64, 15), (64, 16), (40, 99), (6, 50)])
def test_attend_appends_and_attends(width, held, dtype):
    q, key, value = random(6, width), random(2, width, seed=1), random(2, width, seed=2)
    keys = random(1, 2, 100, width, seed=3).astype(dtype)
    values = random(1, 2, 100, width, seed=4).astype(dtype)
    angles = random(2, width // 2, seed=5)
    mixed, keys_after, values_after = jax.jit(kernels.attend)(
        q, key, value, keys, values, jnp.asarray([held], jnp.int32), angles
    )
    q, turned = rotated(q, angles), jnp.asarray(rotated(key, angles))
    want_keys = keys.at[0, :, held].set(turned.astype(dtype))
    want_values = values.at[0, :, held].set(value.astype(dtype))
    # Fused multiply-adds round once where NumPy rounds twice.
    np.testing.assert_allclose(
        keys_after.astype("f4"), want_keys.astype("f4"), rtol=1e-5 if dtype == "float32" else 2**-7
    )
    np.testing.assert_array_equal(values_after, want_values)
    for head in range(6):
        k, v = want_keys[0, head // 3, : held + 1], want_values[0, head // 3, : held + 1]
        np.testing.assert_allclose(mixed[head], softmax_attention(q[head], k, v), atol=3e-6)


@native_only
def test_attend_in_a_stack_appends_to_that_layer_alone():
    q, key, value = random(4, 8), random(2, 8, seed=1), random(2, 8, seed=2)
    keys, values = random(3, 1, 2, 20, 8, seed=3), random(3, 1, 2, 20, 8, seed=4)
    angles, held = random(2, 4, seed=5), jnp.asarray([11], jnp.int32)
    mixed, keys_after, values_after = jax.jit(kernels.attend)(
        q, key, value, keys, values, held, angles, jnp.int32(1)
    )
    want, one_key, one_value = jax.jit(kernels.attend)(
        q, key, value, keys[1], values[1], held, angles
    )
    np.testing.assert_array_equal(mixed, want)
    np.testing.assert_array_equal(keys_after, keys.at[1].set(one_key))
    np.testing.assert_array_equal(values_after, values.at[1].set(one_value))


@native_only
def test_attend_refuses_values_of_another_type_than_the_keys():
    keys = random(1, 2, 20, 8)
    with pytest.raises(jax.errors.JaxRuntimeError, match="values: not as the keys"):
        jax.block_until_ready(
            jax.jit(kernels.attend)(
                random(4, 8),
                random(2, 8),
                random(2, 8),
                keys,
                keys.astype("bfloat16"),
                jnp.asarray([3], jnp.int32),
                random(2, 4),
            )
        )


@native_only
@pytest.mark.parametrize("group", [1, 2, 3, 4, 5, 8])  # heads are taken four at a time
@pytest.mark.parametrize("held", [63, 64, 300])  # a stretch is of 64 tokens
def test_attend_puts_stretches_together_for_any_group(group, held):
    q, key, value = random(2 * group, 16), random(2, 16, seed=1), random(2, 16, seed=2)
    keys, values = random(1, 2, 320, 16, seed=3), random(1, 2, 320, 16, seed=4)
    unturned = jnp.stack([jnp.ones(8), jnp.zeros(8)])
    position = jnp.asarray([held], jnp.int32)
    mixed, keys, values = jax.jit(kernels.attend)(q, key, value, keys, values, position, unturned)
    for head in range(2 * group):
        k, v = keys[0, head // group, : held + 1], values[0, head // group, : held + 1]
        np.testing.assert_allclose(mixed[head], softmax_attention(q[head], k, v), atol=3e-6)


@native_only
def test_attend_survives_scores_far_apart():
    q = jnp.full((1, 16), 100.0)
    keys = jnp.zeros((1, 1, 8, 16)).at[0, 0, 2].set(10.0)  # scores of 4,000 and of 0
    values = random(1, 1, 8, 16)
    unturned = jnp.stack([jnp.ones(8), jnp.zeros(8)])
    nothing, last = jnp.zeros((1, 16)), jnp.asarray([7], jnp.int32)
    mixed, _, _ = jax.jit(kernels.attend)(q, nothing, nothing, keys, values, last, unturned)
    chex.assert_trees_all_close(mixed[0], values[0, 0, 2], atol=1e-6)


@native_only
@pytest.mark.parametrize("count", [0, 1, 63, 1000, 3_000_001])
def test_read_folds_every_byte(count):
    words = np.random.default_rng(0).integers(0, 2**32, count, np.uint32)
    assert int(jax.jit(kernels.read)(words)) == int(np.bitwise_xor.reduce(words))
    assert int(jax.jit(kernels.read)(words.view(np.uint8)[3:])) == int(
        np.bitwise_xor.reduce(np.append(words.view(np.uint8)[3:], np.zeros(3, np.uint8)).view("u4"))
        if count
        else 0
    )


@native_only
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="asks Linux where threads may run")
@pytest.mark.skipif(not 2 <= CORES <= 16, reason="one core has no helpers, many share none")
def test_a_helper_thread_is_kept_off_the_core_of_the_thread_that_it_helps():
    matrix = random(512, 512)
    jax.jit(lambda x, m: kernels.matvec(x, [m]))(random(512), matrix)[0].block_until_ready()
    mine = os.sched_getaffinity(0)
    allowed = [os.sched_getaffinity(int(task.name)) for task in Path("/proc/self/task").iterdir()]
    kept_off = [cores for cores in allowed if cores < mine]
    assert len(kept_off) == CORES - 1
    assert all(len(mine - cores) == 1 for cores in kept_off)
