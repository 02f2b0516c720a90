"""The tree of weights: keys, dtypes, int8 by hand, the first layers only. About 5 seconds."""

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_gguf
from hypothesis import strategies
from hypothesis.extra.numpy import arrays

from models.checkpoint import open_checkpoint
from models.errors import ModelError
from models.formats import quantize
from models.shapes import weight_shapes
from models.stacking import stack_layers
from models.weights import load_weights


@pytest.fixture
def checkpoint(tmp_path):
    return open_checkpoint(tiny_gguf.write(tmp_path / "tiny.gguf", "qwen2"))


def flat(weights):
    leaves, _ = jax.tree_util.tree_flatten_with_path(weights)
    return {"/".join(str(key.key) for key in path): leaf for path, leaf in leaves}


@pytest.mark.newest
def test_the_tree_has_the_keys_that_others_read(checkpoint):
    weights = load_weights(checkpoint)
    assert weights.keys() == {"embedding", "layers", "norm"}
    assert list(weights["layers"]) == [0, 1]
    layer = weights["layers"][1]
    assert layer.keys() == {"attention_norm", "attention", "mlp_norm", "mlp"}
    assert layer["attention"]["q"].keys() == {"kernel", "bias"}
    assert layer["attention"]["o"]["kernel"].shape == (32, 32)
    assert layer["mlp"]["down"]["kernel"].shape == (32, 64)
    assert {name: leaf.shape for name, leaf in flat(weights).items()} == weight_shapes(
        checkpoint.config
    )
    assert all(isinstance(leaf, jax.Array) for leaf in flat(weights).values())


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_stacked_leaves_are_the_layers_side_by_side(checkpoint, dtype):
    stacked = load_weights(checkpoint, dtype, stacked=True)
    listed = stack_layers(checkpoint.config, load_weights(checkpoint, dtype))
    chex.assert_trees_all_equal(stacked, listed)
    assert load_weights(checkpoint, layers=1, stacked=True)["layers"]["mlp"]["up"][
        "kernel"
    ].shape == (1, 64, 32)


def test_an_untied_head(tmp_path):
    path = tiny_gguf.write(tmp_path / "tiny.gguf", weights=tiny_gguf.tensors(tied=False))
    weights = load_weights(open_checkpoint(path), "int8")
    assert weights["head"]["kernel"].dtype == jnp.int8
    assert weights["head"]["kernel_scale"].shape == (12,)


def test_float32_is_what_the_file_holds(checkpoint):
    for name, leaf in flat(load_weights(checkpoint)).items():
        assert leaf.dtype == jnp.float32
        np.testing.assert_array_equal(leaf, checkpoint.read(name))


def test_bfloat16_is_the_nearest(checkpoint):
    for name, leaf in flat(load_weights(checkpoint, "bfloat16")).items():
        exact = checkpoint.read(name)
        if exact.ndim == 1:  # norm scales and biases stay float32
            assert leaf.dtype == jnp.float32
            np.testing.assert_array_equal(leaf, exact)
        else:
            assert leaf.dtype == jnp.bfloat16
            # 8 significant bits: at most half a step of 2**-7 off.
            difference = np.abs(np.asarray(leaf, np.float32) - exact)
            assert (difference <= np.abs(exact) * 2**-8).all()
            assert difference.any()


def test_int8_leaves_and_their_scales(checkpoint):
    weights = flat(load_weights(checkpoint, "int8"))
    for name, shape in weight_shapes(checkpoint.config).items():
        exact = checkpoint.read(name)
        if len(shape) == 1:
            assert weights[name].dtype == jnp.float32
            assert f"{name}_scale" not in weights
        else:
            assert weights[name].dtype == jnp.int8
            assert weights[name].shape == shape
            scale = weights[f"{name}_scale"]
            assert scale.dtype == jnp.float32
            np.testing.assert_allclose(scale, np.abs(exact).max(axis=1) / 127, rtol=1e-6)
    assert "embedding/weight_scale" in weights
    assert "layers/0/mlp/gate/kernel_scale" in weights


@pytest.mark.newest
def test_int8_by_hand():
    kernel = np.array([[1.27, -0.64, 0.004, 0.006], [0, 0, 0, 0], [-254, 3, 2.9, -1]], np.float32)
    rounded, scale = quantize(kernel, "int8").values()
    np.testing.assert_allclose(scale, [0.01, 0, 2], rtol=1e-6)
    # 3 / 2 is halfway, and goes to the even one; so does -1 / 2.
    assert rounded.tolist() == [[127, -64, 0, 1], [0, 0, 0, 0], [-127, 2, 1, 0]]


rows = arrays(
    np.float32,
    strategies.tuples(strategies.integers(1, 5), strategies.integers(1, 9)),
    elements=strategies.floats(-(2.0**100), 2.0**100, width=32),
)


@hypothesis.given(rows)
def test_int8_is_at_most_half_a_step_off(kernel):
    rounded, scale = quantize(kernel, "int8").values()
    assert rounded.min() >= -127  # symmetric: -128 is not used
    restored = rounded.astype(np.float64) * scale[:, None]
    # Half a step, and the rounding of w / scale in float32 next to a boundary; where the scale
    # itself is close to float32's smallest number it is coarse, and off by as much as that.
    bound = 0.5001 * scale[:, None] + 127 * np.finfo(np.float32).smallest_subnormal
    assert (np.abs(restored - kernel) <= bound).all()


def test_rows_are_rounded_each_by_itself():
    kernel = np.ones((2, 4), np.float32) * [[1e-6], [1e6]]
    rounded, scale = quantize(kernel, "int8").values()
    assert rounded.tolist() == [[127] * 4] * 2
    np.testing.assert_allclose(rounded * scale[:, None], kernel, rtol=1e-6)


def test_the_first_layers_only(checkpoint):
    whole, first = load_weights(checkpoint), load_weights(checkpoint, layers=1)
    assert list(first["layers"]) == [0]
    assert first["embedding"].keys() == {"weight"}
    np.testing.assert_array_equal(
        first["layers"][0]["mlp"]["up"]["kernel"], whole["layers"][0]["mlp"]["up"]["kernel"]
    )


@pytest.mark.parametrize("layers", [0, -1, 3])
def test_a_count_of_layers_that_the_model_does_not_have(checkpoint, layers):
    with pytest.raises(ModelError, match=f"tiny has 1 to 2 layers to take, not {layers}"):
        load_weights(checkpoint, layers=layers)


def test_an_unknown_dtype(checkpoint):
    with pytest.raises(ModelError, match=r"must be float32, bfloat16, int8, fp8, .* not 'float16'"):
        load_weights(checkpoint, "float16")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_weights_that_are_not_finite_do_not_load(tmp_path, dtype):
    weights = tiny_gguf.tensors()
    weights["blk.0.attn_norm.weight"][3] = np.inf
    path = tiny_gguf.write(tmp_path / "tiny.gguf", weights=weights)
    with pytest.raises(ModelError, match="layers/0/attention_norm/scale holds values that are not"):
        load_weights(open_checkpoint(path), dtype)
