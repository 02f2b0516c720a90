"""Functions written in Equinox and in Keras on JAX; counts are told by hand. About 20 seconds."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from emu.tracing import trace

Shape = jax.ShapeDtypeStruct
F32 = jnp.float32


def test_an_equinox_mlp():
    mlp = eqx.nn.MLP(64, 32, 256, 3, key=jax.random.key(0))
    work = trace(lambda mlp, x: jax.vmap(mlp)(x), mlp, Shape((8, 64), F32))
    products = 64 * 256 + 2 * 256 * 256 + 256 * 32
    assert work.dot_flops == 2 * 8 * products
    assert work.weight_bytes == 4 * (products + 3 * 256 + 32)
    assert work.leaves[0].path == "layers/0/weight"


def test_equinox_attention_under_filter_jit():
    attention = eqx.nn.MultiheadAttention(4, 64, key=jax.random.key(0))
    step = eqx.filter_jit(lambda attention, x: attention(x, x, x))
    work = trace(step, attention, Shape((16, 64), F32))
    # Four products with weights; scores and what they mix, for 4 heads of 16.
    assert work.dot_flops == 2 * 16 * 64 * 64 * 4 + 2 * 2 * 4 * 16 * 16 * 16
    assert work.weight_bytes == 4 * 4 * 64 * 64


def test_a_scan_over_an_equinox_cell_reads_its_weights_at_each_step():
    class Recurrent(eqx.Module):
        cell: eqx.nn.GRUCell
        head: eqx.nn.Linear

        def __call__(self, xs):
            hidden, _ = jax.lax.scan(lambda h, x: (self.cell(x, h), None), jnp.zeros(32), xs)
            return self.head(hidden)

    key = jax.random.key(0)
    model = Recurrent(eqx.nn.GRUCell(16, 32, key=key), eqx.nn.Linear(32, 4, key=key))
    work = trace(lambda model, xs: model(xs), model, Shape((10, 16), F32))
    cell = 16 * 96 + 32 * 96
    assert work.dot_flops == 10 * 2 * cell + 2 * 32 * 4
    assert work.weight_bytes == 4 * (10 * (cell + 96 + 32) + 32 * 4 + 4)


@pytest.fixture(scope="module")
def keras():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "jax")  # read once, when it is imported
        import keras  # noqa: PLC0415

    assert keras.backend.backend() == "jax"
    return keras


def traced(model, x):
    """The model called without state; weights are what is trained, then what is not."""
    trained = [v.value for v in model.trainable_variables]
    kept = [v.value for v in model.non_trainable_variables]
    step = lambda trained, kept, x: model.stateless_call(trained, kept, x)[0]  # noqa: E731
    return trace(step, trained, kept, x, weights=(0, 1)), sum(v.size for v in trained)


def test_a_keras_transformer_block(keras):
    width, tokens = 64, 12
    inputs = keras.Input((tokens, width))
    x = keras.layers.LayerNormalization()(inputs)
    x = keras.layers.MultiHeadAttention(4, width // 4)(x, x) + inputs
    y = keras.layers.LayerNormalization()(x)
    y = keras.layers.Dense(4 * width, activation="gelu")(y)
    model = keras.Model(inputs, x + keras.layers.Dense(width)(y))
    work, trained = traced(model, Shape((2, tokens, width), F32))
    products = (4 + 8) * width * width
    assert work.dot_flops == 2 * 2 * tokens * products + 2 * 2 * 2 * tokens * tokens * width
    assert work.weight_bytes == 4 * trained


def test_a_keras_lstm(keras):
    layers = [keras.Input((9, 8)), keras.layers.LSTM(32), keras.layers.Dense(3)]
    work, _ = traced(keras.Sequential(layers), Shape((2, 9, 8), F32))
    assert work.dot_flops == 9 * 2 * 2 * (8 * 128 + 32 * 128) + 2 * 2 * 32 * 3
    assert work.weight_bytes == 4 * (9 * (8 * 128 + 32 * 128 + 128) + 32 * 3 + 3)


def test_keras_convolutions(keras):
    layers = [
        keras.Input((32, 32, 3)),
        keras.layers.Conv2D(16, 3, padding="valid", use_bias=False),
        keras.layers.MaxPooling2D(),
        keras.layers.DepthwiseConv2D(3, padding="valid", use_bias=False),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(10),
    ]
    work, trained = traced(keras.Sequential(layers), Shape((4, 32, 32, 3), F32))
    convolved = [op for op in work.ops if op.kind == "convolution"]
    counts = [sum(op.flops.values()) for op in convolved]
    assert counts == [2 * 4 * 30 * 30 * 16 * 27, 2 * 4 * 13 * 13 * 16 * 9]
    assert work.weight_bytes == 4 * trained
