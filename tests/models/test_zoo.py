"""The zoo's names, counts and shapes. About 5 seconds."""

import chex
import jax
import pytest

from models import zoo
from models.config import DecoderConfig
from models.errors import ModelError
from models.layer_kinds import runs_of
from models.shapes import shapes, weight_shapes


@pytest.mark.newest
@pytest.mark.parametrize("name", zoo.names())
def test_parameters_are_the_published_count_within_a_percent(name):
    found = zoo.architecture(name)
    off = abs(found.parameters + found.beside - found.published_parameters)
    assert off <= max(0.01 * found.published_parameters, found.rounding)
    assert found.rounding <= 0.05 * found.published_parameters
    assert found.beside <= 0.01 * found.published_parameters
    assert found.source.startswith("https://")
    assert found.published.startswith("https://")
    scanned = jax.tree.leaves(found.weights("float32"))
    assert sum(leaf.size for leaf in scanned) == found.parameters


@pytest.mark.parametrize(
    ("wrong", "right"), [("llama-3.1-80b", "'llama-3.1-8b'"), ("Qwen3-8b ", "'qwen3-8b'")]
)
def test_unknown_names_get_the_nearest(wrong, right):
    with pytest.raises(ModelError, match=f"did you mean .*{right}"):
        zoo.architecture(wrong)
    with pytest.raises(ModelError, match=r"no architecture is called 'xyzzy'; see models/zoo.toml"):
        zoo.architecture("xyzzy")


def test_a_listed_tree_has_the_shapes_that_loaders_check():
    config = zoo.architecture("gemma-3-1b").config
    flat = {
        "/".join(str(getattr(key, "key", key)) for key in path): leaf.shape
        for path, leaf in jax.tree.leaves_with_path(shapes(config))
    }
    assert flat == weight_shapes(config)


def test_layers_are_grouped_by_the_pattern_that_repeats():
    def groups(text):
        return [[g.name for g in run.groups] for run in runs_of(text)]

    assert groups("aaaa") == [["0:4"]]
    assert groups("a") == [["0:1"]]
    assert groups("aaabbbb") == [["0:3"], ["3:7"]]
    assert groups("ababa") == [["0:3:2", "1:4:2"], ["4:5"]]
    assert groups("aabaabaa") == [["0:4:3", "1:5:3", "2:6:3"], ["6:8"]]
    assert groups("abc") == [["0:1"], ["1:2"], ["2:3"]]
    for text in ("aaabbbb", "aabaabaa", "ababa", "abcabcab"):
        held = sorted(n for run in runs_of(text) for g in run.groups for n in g.layers)
        assert held == list(range(len(text)))
        for run in runs_of(text):
            for g in run.groups:
                assert {text[n] for n in g.layers} == {g.kind}
                assert len(g.layers) == run.repeats


def test_int8_is_the_same_tree_with_scales_beside():
    config = DecoderConfig(
        vocab_size=32, layers=2, width=16, heads=2, kv_heads=1, head_width=8, mlp_width=24,
        max_context=64, tied_embeddings=True,
    )  # fmt: skip
    q = shapes(config, "int8", scanned=True)["layers"]["attention"]["q"]
    chex.assert_trees_all_equal(
        q,
        {
            "kernel": jax.ShapeDtypeStruct((2, 16, 16), "int8"),
            "kernel_scale": jax.ShapeDtypeStruct((2, 16), "float32"),
        },
    )


def test_what_transformers_lacks_is_listed_as_unchecked():
    unchecked = [name for name in zoo.names() if not zoo.architecture(name).checked]
    assert unchecked == ["palm-8b", "palm-62b", "palm-540b"]
    assert all("no PaLM" in zoo.architecture(name).unverified for name in unchecked)
