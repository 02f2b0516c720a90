"""Functions written in Flax NNX and Flax Linen, abstract weights and all."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen, nnx

from emu.tracing import trace

Shape = jax.ShapeDtypeStruct
F32 = jnp.float32
TOKENS = Shape((2,), "int32")
# One layer of both models: embedding rows, a norm's scale, two products with biases.
READ = 4 * (2 * 8 + 8 + 8 * 16 + 16 + 16 * 4 + 4)


class Model(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(10, 8, rngs=rngs)
        self.norm = nnx.RMSNorm(8, rngs=rngs)
        self.up = nnx.Linear(8, 16, rngs=rngs)
        self.down = nnx.Linear(16, 4, rngs=rngs)
        self.drop = nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, tokens):
        hidden = nnx.relu(self.up(self.norm(self.embed(tokens))))
        return self.down(self.drop(hidden, deterministic=True))


@pytest.mark.newest
@pytest.mark.parametrize("form", ["split", "module", "jit"])
def test_flax_nnx(form):
    model = nnx.eval_shape(lambda: Model(nnx.Rngs(0)))
    if form == "split":
        graph, state = nnx.split(model)
        work = trace(lambda state, tokens: nnx.merge(graph, state)(tokens), state, TOKENS)
    elif form == "module":
        work = trace(lambda model, tokens: model(tokens), model, TOKENS)
    else:
        work = trace(nnx.jit(lambda model, tokens: model(tokens)), model, TOKENS)
    assert work.weight_bytes == READ
    assert work.bytes_by_leaf["up/kernel"] == 4 * 8 * 16
    assert work.dot_flops == 2 * 2 * (8 * 16 + 16 * 4)


class LinenModel(linen.Module):
    @linen.compact
    def __call__(self, tokens):
        x = linen.RMSNorm()(linen.Embed(10, 8)(tokens))
        return linen.Dense(4)(linen.relu(linen.Dense(16)(x)))


@pytest.mark.newest
def test_flax_linen():
    model = LinenModel()
    weights = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((2,), jnp.int32))
    work = trace(model.apply, weights, TOKENS)
    assert work.weight_bytes == READ
    assert work.bytes_by_leaf["params/Dense_1/kernel"] == 4 * 8 * 16  # the inner one
    assert {op.scope for op in work.ops if op.kind == "dot"} == {
        "LinenModel/Dense_0",
        "LinenModel/Dense_1",
    }


def test_flax_linen_decoding_with_its_own_cache():
    attention = linen.MultiHeadDotProductAttention(num_heads=2, decode=True)
    variables = jax.eval_shape(attention.init, jax.random.key(0), jnp.zeros((1, 16, 8)))

    def step(weights, cache, x):
        return attention.apply({"params": weights, "cache": cache}, x, mutable=["cache"])

    work = trace(
        step, variables["params"], variables["cache"], Shape((1, 1, 8), F32),
        cache=1, hints={"context": 5},
    )  # fmt: skip
    assert work.bytes_by_leaf["cache/cached_key"] == 4 * 5 * 8
    assert work.bytes_by_leaf["cache/cached_value"] == 4 * 5 * 8
    assert work.cache_written_bytes == 2 * 4 * 8 + 4  # a token, and the index of the next one
    assert work.weight_bytes == 4 * (4 * 8 * 8 + 4 * 8)


class Settings:
    """A tree with leaves that are not arrays, as Equinox modules have them."""

    def __init__(self, kernel, activation, rate, training):
        self.parts = (kernel, activation, rate, training)


jax.tree_util.register_pytree_node(
    Settings, lambda s: (s.parts, None), lambda _, parts: Settings(*parts)
)


def test_leaves_that_are_not_arrays_are_part_of_the_function():
    def model(settings, x):
        kernel, activation, rate, training = settings.parts
        if training or rate > 1:  # neither may be traced
            raise ValueError("not for training")
        return activation(x @ kernel)

    settings = Settings(Shape((8, 8), F32), jax.nn.relu, 0.1, False)
    work = trace(model, settings, Shape((2, 8), F32))
    assert work.weight_bytes == 256
    assert len(work.leaves) == 1
    # A number that is an argument by itself is traced, as jit would.
    work = trace(jax.lax.dynamic_index_in_dim, Shape((8, 8), F32), 3)
    assert work.weight_bytes == 32


class Block(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(8, 8, rngs=rngs)
        self.drop = nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, x):
        return nnx.relu(self.drop(self.linear(x), deterministic=True))


class Stack(nnx.Module):
    def __init__(self, rngs):
        make = nnx.split_rngs(splits=5)(nnx.vmap(Block, in_axes=0, out_axes=0))
        self.layers = make(rngs)

    def __call__(self, x):
        run = nnx.scan(
            nnx.remat(lambda layer, x: layer(x)), in_axes=(0, nnx.Carry), out_axes=nnx.Carry
        )
        return run(self.layers, x)


def test_flax_nnx_scanned_and_rematerialised_layers_are_read_once():
    graph, state = nnx.split(Stack(nnx.Rngs(0)))
    work = trace(lambda state, x: nnx.merge(graph, state)(x), state, Shape((2, 8), F32))
    assert work.weight_bytes == 5 * 4 * (8 * 8 + 8)
    assert [op.count for op in work.ops if op.kind == "dot"] == [5]


class LinenBlock(linen.Module):
    @linen.compact
    def __call__(self, x, _):
        return linen.relu(linen.Dense(8)(x)), None


class LinenStack(linen.Module):
    @linen.compact
    def __call__(self, x):
        layers = linen.scan(
            linen.remat(LinenBlock),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=5,
        )
        return layers()(x, None)[0]


def test_flax_linen_scanned_and_rematerialised_layers_are_read_once():
    model = LinenStack()
    weights = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((2, 8)))
    work = trace(model.apply, weights, Shape((2, 8), F32))
    assert work.weight_bytes == 5 * 4 * (8 * 8 + 8)
