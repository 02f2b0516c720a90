"""Every family of primitives at least once, with counts derived by hand, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import emu.costs
from emu.errors import EmuError
from emu.tracing import trace

Shape = jax.ShapeDtypeStruct
F32, I32, C64 = jnp.float32, jnp.int32, jnp.complex64
KEY = jax.eval_shape(lambda: jax.random.key(0))
OLD_KEY = Shape((2,), "uint32")

# name: function, arguments (activations), FLOPs, bytes of activations in and out, kernels
FAMILIES = {
    "elementwise": (lambda x: jnp.tanh(x) * 2, [Shape((8,), F32)], 16, 64, 1),
    "comparison": (lambda x: x > 0, [Shape((8,), F32)], 0, 32 + 8, 1),
    "integers": (lambda x: x * 3 + 1, [Shape((8,), I32)], 0, 64, 1),
    "select": (lambda x: jnp.where(x > 0, x, 0), [Shape((8,), F32)], 0, 64, 1),
    "clamp": (lambda x: jnp.clip(x, 0, 1), [Shape((8,), F32)], 16, 64, 1),
    "convert": (lambda x: x.astype("bfloat16"), [Shape((8,), F32)], 0, 32 + 16, 1),
    "complex": (lambda x: x * x, [Shape((8,), C64)], 16, 128, 1),
    "broadcast": (lambda x: x[:, None] + x[None, :], [Shape((8,), F32)], 64, 32 + 256, 1),
    "pad": (lambda x: jnp.pad(x, 2), [Shape((8,), F32)], 0, 32 + 48, 1),
    "concatenate": (lambda x: jnp.concatenate([x, x * 2]), [Shape((8,), F32)], 8, 32 + 64, 1),
    "reduction": (lambda x: x.sum(0), [Shape((4, 8), F32)], 24, 128 + 32, 1),
    "variadic reduction": (
        lambda x: lax.reduce((x, x), (0.0, 0.0), lambda a, b: (a[0] + b[0], a[1] + b[1]), (0,)),
        [Shape((8,), F32)],
        7,
        32 + 8,
        1,
    ),
    "argmax": (lambda x: jnp.argmax(x, -1), [Shape((4, 8), F32)], 0, 128 + 16, 1),
    "cumulative": (jnp.cumsum, [Shape((8,), F32)], 8, 64, 1),
    "window": (
        lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (2,), (2,), "VALID"),
        [Shape((8,), F32)],
        4,
        32 + 16,
        1,
    ),
    "sort": (jnp.sort, [Shape((8,), F32)], 0, 64, 1),
    "top_k": (lambda x: lax.top_k(x, 2), [Shape((4, 8), F32)], 0, 128 + 32 + 32, 1),
    "gather": (lambda x, i: x[i], [Shape((8, 4), F32), Shape((3,), I32)], 0, 48 + 12 + 48, 1),
    "scatter": (
        lambda x, i: jnp.zeros((8, 4)).at[i].add(x),
        [Shape((3, 4), F32), Shape((3,), I32)],
        12,
        48 + 12 + 128,
        1,
    ),
    "dynamic_update_slice": (
        lambda x, y, i: lax.dynamic_update_slice(x, y, (i, 0)),
        [Shape((8, 4), F32), Shape((1, 4), F32), Shape((), I32)],
        0,
        16 + 4 + 16,  # the update and its place in, the update out
        1,
    ),
    "dot": (lambda x, y: x @ y, [Shape((2, 4), F32), Shape((4, 8), F32)], 128, 32 + 128 + 64, 1),
    "complex dot": (
        lambda x, y: x @ y,
        [Shape((2, 4), C64), Shape((4, 8), C64)],
        8 * 64,
        2 * (32 + 128 + 64),
        1,
    ),
    "ragged_dot": (
        lax.ragged_dot,
        [Shape((6, 4), F32), Shape((1, 4, 8), F32), Shape((1,), I32)],
        2 * 6 * 4 * 8,
        96 + 128 + 192,
        1,
    ),
    "convolution": (  # 2 x (4 x 6 x 6 outputs) x (3 x 3 x 3 of the kernel)
        lambda x, k: lax.conv(x, k, (1, 1), "VALID"),
        [Shape((1, 3, 8, 8), F32), Shape((4, 3, 3, 3), F32)],
        2 * 144 * 27,
        4 * (192 + 108 + 144),
        1,
    ),
    "grouped convolution": (  # each of 4 channels by its own 3: 2 x (4 x 6 outputs) x 3
        lambda x, k: lax.conv_general_dilated(x, k, (1,), "VALID", feature_group_count=4),
        [Shape((1, 4, 8), F32), Shape((4, 1, 3), F32)],
        2 * 24 * 3,
        4 * (32 + 12 + 24),
        1,
    ),
    "fft": (jnp.fft.fft, [Shape((2, 8), C64)], 2 * 5 * 8 * 3, 256, 1),
    "real fft": (jnp.fft.rfft, [Shape((8,), F32)], 5 * 8 * 3 // 2, 32 + 40, 1),
    "random": (lambda k: jax.random.bits(k, (8,)), [KEY], 0, 8 + 32, 1),
    "old random": (lambda k: jax.random.bits(k, (8,)), [OLD_KEY], 0, 8 + 32, 1),
    "generator": (
        lambda k: lax.rng_bit_generator(k, (8,)),
        [Shape((4,), "uint32")],
        0,
        16 + 16 + 32,
        1,
    ),
    "cholesky": (
        lambda x: lax.linalg.cholesky(x, symmetrize_input=False),
        [Shape((6, 6), F32)],
        72,
        4 * 144,  # the triangle is made after it
        2,
    ),
    "triangular solve": (
        lambda a, b: lax.linalg.triangular_solve(a, b, left_side=True),
        [Shape((4, 4), F32), Shape((4, 3), F32)],
        48,
        4 * (16 + 12 + 12),
        1,
    ),
    "custom_jvp": (jax.nn.relu, [Shape((8,), F32)], 8, 64, 1),
    "remat": (jax.checkpoint(jnp.sin), [Shape((8,), F32)], 8, 64, 1),
    "optimization_barrier": (
        lambda x: lax.optimization_barrier(x) + 1,
        [Shape((8,), F32)],
        8,
        64,
        1,
    ),
    "reversed": (lambda x: x[::-1] + 1, [Shape((8,), F32)], 8, 64, 1),
    "split": (lambda x: jnp.split(x, 2)[1] + 1, [Shape((8,), F32)], 4, 16 + 16, 1),
    "iota": (lambda x: x + jnp.arange(8.0), [Shape((8,), F32)], 8, 64, 1),
    "print": (lambda x: jax.debug.print("{}", x), [Shape((8,), F32)], 0, 0, 0),
}


@pytest.mark.newest
@pytest.mark.parametrize("name", FAMILIES)
def test_family(name):
    function, arguments, flops, moved, kernels = FAMILIES[name]
    work = trace(function, *arguments, weights=None)
    assert work.flops == flops
    assert (work.activation_bytes, work.kernels) == (moved, kernels)
    assert work.weight_bytes == work.cache_bytes == 0


def test_a_custom_vjp_is_its_forward_function_and_its_gradient_is_what_it_says():
    @jax.custom_vjp
    def double(x):
        return x * 2

    double.defvjp(lambda x: (x * 2, None), lambda _, g: (jnp.exp(g),))
    assert [op.name for op in trace(double, Shape((8,), F32), weights=None).ops] == ["mul"]
    grad = trace(jax.grad(lambda x: double(x).sum()), Shape((8,), F32), weights=None)
    assert "exp" in [op.name for op in grad.ops]


def test_a_training_step_reads_weights_forward_and_backward():
    def loss(w, x):
        return jnp.sum(jnp.tanh(x @ w["a"]) @ w["b"])

    weights = {"a": Shape((8, 16), F32), "b": Shape((16, 4), F32)}
    work = trace(jax.grad(loss), weights, Shape((2, 8), F32))
    # Forward: a; backward: b (the loss itself is not needed, so b is not read forward).
    assert work.bytes_by_leaf == {"a": 512, "b": 256}
    # x·a forward; the gradients of a, of b and of the hidden layer.
    assert work.dot_flops == 2 * 2 * (8 * 16 + 8 * 16 + 16 * 4 + 16 * 4)


def test_references_are_updated_in_place():
    def count(x):
        ref = jax.new_ref(jnp.zeros((8, 4)))
        ref[2] = x
        return ref[...]

    work = trace(count, Shape((4,), F32), weights=None)
    assert work.activation_bytes == 16 + 8 * 4 * 4  # x in; the rest is zeros, written with it


def test_linear_solves_are_traced_through():
    work = trace(jnp.linalg.solve, Shape((6, 6), F32), Shape((6,), F32), weights=None)
    assert work.flops >= 144 + 2 * 36  # 2·6³/3 and two triangular solves


@pytest.mark.newest
def test_a_search_is_traced_through():
    work = trace(jnp.searchsorted, Shape((64,), F32), Shape((3,), F32), weights=None)
    assert work.kernels > 0


def test_attention_as_jax_writes_it():
    q, kv = Shape((1, 2, 4, 8), F32), Shape((1, 6, 2, 8), F32)
    work = trace(jax.nn.dot_product_attention, q, kv, kv, weights=None)
    assert work.dot_flops == 2 * 2 * 4 * 2 * 6 * 8
    assert work.kernels == 3  # two products, softmax between them


def test_callbacks_are_noted():
    def host(x):
        return jax.pure_callback(np.sin, Shape((8,), F32), x)

    work = trace(host, Shape((8,), F32), weights=None)
    assert "pure_callback" in work.notes[0]


def foreign(x):
    with jax.named_scope("mlp"):
        return jax.ffi.ffi_call("some_target", Shape((8,), F32))(x, scale=3)


def test_a_primitive_without_a_rule_is_named_with_its_place_shapes_and_remedy():
    with pytest.raises(EmuError) as error:
        trace(foreign, Shape((4, 2), "bfloat16"), weights=None)
    message = str(error.value)
    assert "no cost rule for ffi_call of 'some_target' at mlp (test_trace_primitives.py:" in message
    assert "(bfloat16[4,2]) -> (float32[8])" in message
    assert "@emu.cost_rule('ffi_call', name='some_target')" in message


def test_every_primitive_of_this_jax_is_known_or_refused():
    registered = set(emu.costs._OWN)
    assert {"dot_general", "scan", "while", "cond", "gather", "psum", "pallas_call"} <= registered
    assert "tpu_custom_call" not in registered


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": 3}, "weights=3, but the function is given 1 positional"),
        ({"weights": "w"}, "takes positions of arguments, not 'w'"),
        ({"weights": True}, "takes positions of arguments, not True"),
        ({"weights": 0, "cache": 0}, "argument 0 is named as weights and as cache"),
        ({"hints": {"contxt": 4}}, "no 'contxt'; did you mean 'context'"),
        ({"hints": {"context": 4.5}}, "context must be a count of tokens, not 4.5"),
        ({"hints": {"context": -1}}, "context must be a count of tokens, not -1"),
        ({"hints": {"experts": {"up": 3}}}, "experts of 'up', which matches no leaf; the nearest"),
        ({"hints": {"context_axis": {"k": 1}}}, "context_axis of 'k', which matches no leaf"),
        ({"hints": {"experts": "many"}}, "experts must hold numbers, not 'many'"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(EmuError, match=message.replace("(", r"\(")):
        trace(lambda x: x * 2, Shape((8,), F32), **arguments)


def test_what_is_no_function():
    with pytest.raises(EmuError, match="the function comes first, then its arguments, not 3"):
        trace(3, Shape((8,), F32))


def test_no_arguments_at_all():
    with pytest.raises(EmuError, match="no arguments are given; pass weights=None"):
        trace(lambda: jnp.zeros(3))
    assert trace(lambda: jnp.zeros(3), weights=None).kernels == 0


def test_a_collective_without_its_mesh_is_jaxs_own_error():
    with pytest.raises(NameError, match="unbound axis name"):
        trace(lambda x: lax.psum(x, "model"), Shape((8,), F32), weights=None)


@pytest.mark.parametrize(
    ("stride", "padding", "data", "kernel", "groups"),
    [
        (1, "SAME", 1, 1, 1),
        (2, "SAME", 1, 1, 4),  # grouped
        (2, "VALID", 1, 2, 1),  # a dilated kernel
        (1, ((2, 1), (0, 3)), 2, 1, 1),  # a dilated input, as transposed convolutions have it
        (3, ((-1, 4), (2, 2)), 3, 2, 2),
    ],
)
def test_convolutions_count_as_xla_counts_them(stride, padding, data, kernel, groups):
    def convolved(x, k):
        return lax.conv_general_dilated(
            x,
            k,
            (stride, stride),
            padding,
            lhs_dilation=(data, data),
            rhs_dilation=(kernel, kernel),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    shapes = Shape((2, 9, 7, 8), F32), Shape((3, 3, 8 // groups, 4), F32)
    compiled = jax.jit(convolved).lower(*shapes).cost_analysis()
    assert trace(convolved, *shapes).flops == compiled["flops"]
