"""Logical axes of models written in other ways: Flax Linen modules, plain JAX, fused matrices."""

import flax.linen as nn
import jax
import jax.numpy as jnp

import emu


def f32(*dims):
    return jax.ShapeDtypeStruct(dims, jnp.float32)


def traced(module, *inputs, **settings):
    """A module's work, and its leaves' axes by path."""
    weights = jax.eval_shape(lambda *xs: module.init(jax.random.key(0), *xs, **settings), *inputs)[
        "params"
    ]
    work = emu.trace(lambda w, *xs: module.apply({"params": w}, *xs, **settings), weights, *inputs)
    return work, {leaf.path: leaf.axes for leaf in work.leaves}


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        gate, up = jnp.split(nn.Dense(96)(x), 2, axis=-1)
        return x + nn.Dense(x.shape[-1])(nn.silu(gate) * up)


def test_linen_dense():
    work, axes = traced(MLP(), f32(2, 5, 32))
    width, fused = axes["Dense_0/kernel"]
    assert axes["Dense_0/bias"] == (fused,)
    assert [work.axes[i].size for i in fused] == [2, 48]
    assert axes["Dense_1/kernel"] == (fused[1:], width)
    assert axes["Dense_1/bias"] == (width,)


def test_linen_attention():
    work, axes = traced(nn.MultiHeadDotProductAttention(num_heads=4), f32(2, 5, 32), f32(2, 5, 32))
    _, heads, width = axes["query/kernel"]
    assert axes["key/kernel"][1:] == (heads, width)
    assert axes["value/kernel"][1] == heads
    assert axes["out/kernel"][:2] == axes["value/kernel"][1:]
    assert axes["query/bias"] == (heads, width)
    scores = [op for op in work.ops if op.name == "dot_general" and op.summed == width]
    assert heads[0] in scores[0].axes


def test_heads_in_groups_by_repeating_keys():
    def fn(w, x):
        q = (x @ w["q"]).reshape(3, 8, 16)
        k = jnp.repeat((x @ w["k"]).reshape(3, 2, 16), 4, axis=1)
        v = jnp.repeat((x @ w["v"]).reshape(3, 2, 16), 4, axis=1)
        shares = jax.nn.softmax(jnp.einsum("thw,lhw->htl", q, k), axis=-1)
        return jnp.einsum("htl,lhw->thw", shares, v).reshape(3, 128) @ w["o"]

    weights = {"q": f32(32, 128), "k": f32(32, 32), "v": f32(32, 32), "o": f32(128, 32)}
    work = emu.trace(fn, weights, f32(3, 32))
    axes = {leaf.path: leaf.axes for leaf in work.leaves}
    kv, group, width = axes["q"][1]
    assert axes["k"][1] == (kv, width)
    assert axes["v"][1][0] == kv
    assert axes["o"][0] == (kv, group, *axes["v"][1][1:])
    # What is read of the repeated keys and values is spread over their own heads alone.
    products = [op for op in work.ops if op.dot and "thw" in op.scope]
    repeated = [a.axes for op in products for a in op.reads if a.bytes == 3 * 32 * 4]
    assert len(repeated) == 2
    assert all(kv in axes and group not in axes for axes in repeated)


def test_layers_that_are_vmapped_or_batched():
    def one(w, x):
        return jnp.tanh(x @ w["a"]) @ w["b"]

    weights = {"a": f32(7, 8, 12), "b": f32(7, 12, 8)}
    work = emu.trace(jax.vmap(one), weights, f32(7, 3, 8))
    axes = {leaf.path: leaf.axes for leaf in work.leaves}
    which, width, inner = axes["a"]
    assert axes["b"][:2] == (which, inner)
    assert all(set(which) <= set(op.axes) for op in work.ops if op.dot)
    assert width != inner


def test_all_experts_at_once():
    def fn(w, x):
        shares = jax.nn.softmax(x @ w["router"])
        inner = jax.nn.relu(jnp.einsum("nw,ewi->nei", x, w["up"]))
        return jnp.einsum("nei,eiw,ne->nw", inner, w["down"], shares)

    weights = {"router": f32(8, 5), "up": f32(5, 8, 12), "down": f32(5, 12, 8)}
    work = emu.trace(fn, weights, f32(3, 8))
    axes = {leaf.path: leaf.axes for leaf in work.leaves}
    experts, _, inner = axes["up"]
    assert axes["down"][:2] == (experts, inner)
    assert axes["router"][1] == experts
    assert all(a.routed is None for op in work.ops for a in op.reads)


def test_a_convolutions_features():
    def fn(w, x):
        return jax.nn.relu(nn_conv(x, w["first"])).mean((1, 2)) @ w["last"]

    def nn_conv(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)

    work = emu.trace(fn, {"first": f32(3, 3, 4, 6), "last": f32(6, 5)}, f32(2, 8, 8, 4))
    axes = {leaf.path: leaf.axes for leaf in work.leaves}
    assert axes["first"][3] == axes["last"][0]
    (op,) = [op for op in work.ops if op.kind == "convolution"]
    assert op.summed == axes["first"][2]


def test_shards_keep_the_axes_that_are_not_sharded():
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.sharding.AbstractMesh((2,), ("x",), axis_types=auto)
    spec = jax.sharding.PartitionSpec

    def fn(w, x):
        return jax.lax.psum(x @ w, "x")

    specs = {"in_specs": (spec("x"), spec(None, "x")), "out_specs": spec()}
    sharded = jax.shard_map(fn, mesh=mesh, **specs)
    work = emu.trace(
        lambda w, x: sharded(w["a"], x) @ w["b"], {"a": f32(4, 6), "b": f32(6, 5)}, f32(3, 4)
    )
    assert work.dot_flops == 2 * 3 * 2 * 6 + 2 * 3 * 6 * 5
    axes = {leaf.path: leaf.axes for leaf in work.leaves}
    assert axes["a"][1] == axes["b"][0]  # not sharded, inside and out
    (op,) = [op for op in work.ops if op.collective]
    assert set(axes["a"][1]) <= set(op.axes)


def test_a_reference_holds_what_is_put_into_it():
    def fn(w, x):
        ref = jax.new_ref(x @ w["a"])
        ref[...] = jnp.tanh(ref[...])
        return jax.freeze(ref) @ w["b"]

    work = emu.trace(fn, {"a": f32(4, 6), "b": f32(6, 5)}, f32(3, 4))
    axes = {leaf.path: leaf.axes for leaf in work.leaves}
    assert axes["a"][1] == axes["b"][0]


def test_a_rule_of_the_callers_own_is_no_error():
    def fn(w, x):
        call = jax.ffi.ffi_call("an_axis_less_product", jax.ShapeDtypeStruct((6,), jnp.float32))
        return jnp.tanh(call(x, w["a"])) @ w["b"]

    @emu.cost_rule("ffi_call", name="an_axis_less_product")
    def _(call):
        return emu.Cost(flops={"float32": 2 * call.inputs[1].size}, kind="dot")

    work = emu.trace(fn, {"a": f32(6, 4), "b": f32(6, 4)}, f32(4))
    (op,) = [op for op in work.ops if op.name == "ffi_call"]
    axes = {leaf.path: leaf.axes for leaf in work.leaves}
    assert set(op.whole) >= {*axes["a"][0], *axes["a"][1]}
    assert axes["a"][0] != axes["b"][0]  # nobody said that they are the same
