import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.cliff_sizes import Size, config_of, sizes, weights_of
from experiments.errors import ExperimentError
from models.cache import new_cache
from models.config import DecoderConfig
from models.shapes import shapes
from models.steps import layer_step

CONFIG = DecoderConfig(
    vocab_size=32,
    layers=3,
    width=24,
    heads=6,
    kv_heads=3,
    head_width=4,
    mlp_width=36,
    max_context=16,
    tied_embeddings=True,
)


def test_thin_sizes_come_first_and_are_less_than_a_layer():
    found = sizes("m", CONFIG, (1, 3), (1, 2))
    assert [size.layers for size in found] == pytest.approx([1 / 3, 2 / 3, 1, 3])
    assert [size.name for size in found] == ["1 thin", "2 thin", "1", "3"]
    assert [size.layers for size in sizes("m", CONFIG, (), ())] == [1, 2, 3]
    # Three heads of three are a whole layer.
    assert [size.name for size in sizes("m", CONFIG, (1,), (2, 3, 4))] == ["2 thin", "1"]


@pytest.mark.parametrize(
    ("layers", "thin", "message"),
    [
        ((4,), (), "m has 1 to 3 layers, not 4"),
        ((), (0,), "at least 1 thin layer, not 0"),
    ],
)
def test_sizes_that_there_are_not_are_refused(layers, thin, message):
    with pytest.raises(ExperimentError, match=message):
        sizes("m", CONFIG, layers, thin)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_thin_layer_is_the_leading_part_of_the_real_weights_and_runs(dtype):
    size = Size(count=2, part=1 / 3)
    config = config_of(CONFIG, size)
    assert (config.layers, config.heads, config.kv_heads, config.mlp_width) == (2, 2, 1, 12)
    key = jax.random.key(0)
    whole = jax.tree.map(
        lambda leaf: jax.random.normal(key, leaf.shape).astype(leaf.dtype),
        {"layers": shapes(CONFIG, dtype)["layers"]},
    )
    thin = weights_of(whole, config, dtype, size)
    like = {"layers": shapes(config, dtype)["layers"]}
    assert jax.tree.map(jnp.shape, thin) == jax.tree.map(jnp.shape, like)
    down = whole["layers"][1]["mlp"]["down"]["kernel"]
    np.testing.assert_array_equal(thin["layers"][1]["mlp"]["down"]["kernel"], down[:, :12])
    hidden, _ = layer_step(config, thin, new_cache(config, batch=1, length=4), jnp.ones((1, 1, 24)))
    assert hidden.shape == (1, 1, 24)
    assert weights_of(whole, CONFIG, dtype, Size(count=2, part=1.0))["layers"].keys() == {0, 1}
