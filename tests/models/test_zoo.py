"""The zoo's names, counts and shapes. About 5 seconds."""

import math

import chex
import jax
import pytest

from models import zoo
from models.config import DecoderConfig
from models.errors import ModelError
from models.layer_kinds import runs_of
from models.shapes import shapes, weight_shapes

# Published to three to five digits, and not as the number of numbers in a checkpoint.
ROUNDED = {
    *("codestral-22b", "starcoder2-15b", "gemma-3-4b", "gemma-3-12b", "gemma-3-27b"),
    *("gpt-oss-20b", "gpt-oss-120b", "palm-8b", "palm-62b", "palm-540b"),
    "qwen3.5-397b-a17b",
    *("kimi-k2", "kimi-k2-0905"),  # their files hold 56 and 128 numbers a layer more than told here
}


@pytest.mark.newest
@pytest.mark.parametrize("name", zoo.names())
def test_parameters_are_the_published_count(name):
    found = zoo.architecture(name)
    off = abs(found.parameters + found.beside - found.published_parameters)
    assert off <= (0.003 * found.published_parameters if name in ROUNDED else 0)
    for link in (found.source, found.published, found.confirmed):
        assert link.startswith("https://")
    scanned = jax.tree.leaves(found.weights("float32"))
    assert sum(leaf.size for leaf in scanned) == found.parameters


def test_beside_what_the_decoder_has_is_what_it_is_said_to_be():
    def layer(name, number):
        shapes = weight_shapes(zoo.architecture(name).config)
        return sum(math.prod(s) for k, s in shapes.items() if k.startswith(f"layers/{number}/"))

    def blocks(name, within="layers/"):
        return sum(
            math.prod(s[:-2]) * math.ceil(s[-2] / 128) * math.ceil(s[-1] / 128)
            for key, s in weight_shapes(zoo.architecture(name).config).items()
            if key.startswith(within) and key.endswith("kernel")
            if "router" not in key and "head_weights" not in key
        )

    # GLM-4.7's last layer predicts a second token: it joins two vectors, has three more norms,
    # and brings an embedding and a head.
    glm = zoo.architecture("glm-4.7")
    width, tables = glm.config.width, 2 * glm.config.vocab_size * glm.config.width
    assert glm.beside == layer("glm-4.7", 91) + 2 * width**2 + 3 * width + tables
    # DeepSeek-V3's too; its files hold a scale for each block of 128 x 128, as MiniMax-M2.5's do.
    for name in ("deepseek-v3", "deepseek-r1", "deepseek-v3.2"):
        found = zoo.architecture(name)
        width, tables = found.config.width, 2 * found.config.vocab_size * found.config.width
        second = layer(name, 60) + 2 * width**2 + 3 * width + tables
        assert found.beside == second + blocks(name) + blocks(name, "layers/60/")
    # GLM-5's takes the model's own embedding and head.
    glm = zoo.architecture("glm-5")
    assert glm.beside == layer("glm-5", 77) + 2 * glm.config.width**2 + 3 * glm.config.width
    for name in ("minimax-m2.5", "kimi-k2", "kimi-k2-0905", "qwen3-235b-a22b-2507"):
        assert zoo.architecture(name).beside == blocks(name)
    for name in ("qwen3-0.6b", "falcon-7b", "falcon-40b"):  # their files hold the tied head too
        found = zoo.architecture(name)
        assert found.beside == found.config.vocab_size * found.config.width
    llama = zoo.architecture("llama-2-70b")  # half of a head's frequencies in each layer
    assert llama.beside == llama.config.layers * llama.config.head_width // 2
    mixtral = zoo.architecture("mixtral-8x22b")  # the instruct model has 768 tokens more
    assert mixtral.beside == 2 * 768 * mixtral.config.width


@pytest.mark.parametrize(
    ("wrong", "right"), [("llama-3.1-80b", "'llama-3.1-8b'"), ("Qwen3-8b ", "'qwen3-8b'")]
)
def test_unknown_names_get_the_nearest(wrong, right):
    with pytest.raises(ModelError, match=f"did you mean .*{right}"):
        zoo.architecture(wrong)
    with pytest.raises(ModelError, match=r"no architecture is called 'xyzzy'; see models/zoo.toml"):
        zoo.architecture("xyzzy")


def test_a_tuned_copy_and_a_model_with_the_same_decoder_are_found():
    for other, name in (
        ("llama-3.3-70b-instruct", "llama-3.3-70b"),
        ("glm-4.6", "glm-4.7"),
        ("openai/gpt-oss-20b", "gpt-oss-20b"),
        ("meta-llama/meta-llama-3.1-8b-instruct", "llama-3.1-8b"),
        ("llama-2-7b-chat-hf", "llama-2-7b"),
        ("mixtral-8x7b-instruct-v0.1", "mixtral-8x7b"),
        ("mistralai/mistral-7b-instruct-v0.1", "mistral-7b"),
        ("qwen/qwen3-4b-base", "qwen3-4b"),
    ):
        assert zoo.architecture(other).name == name
    with pytest.raises(ModelError, match=r"no architecture is called 'xyzzy-chat'"):
        zoo.architecture("xyzzy-chat")


def test_versions_and_dates_are_decoders_of_their_own():
    for other, theta, most, window, vocabulary in (
        ("mistral-7b", 1e4, 32768, 4096, 32000),
        ("mistral-7b-instruct-v0.2", 1e6, 32768, None, 32000),
        ("mistralai/mistral-7b-instruct-v0.3", 1e6, 32768, None, 32768),
        ("codestral-22b-v0.1", 1e6, 32768, None, 32768),
        ("devstral-small-2507", 1e9, 131072, None, 131072),
        ("qwen3-4b", 1e6, 40960, None, 151936),
        ("qwen3-4b-instruct-2507", 5e6, 262144, None, 151936),
        ("qwen3-4b-thinking-2507", 5e6, 262144, None, 151936),
        ("qwen3-30b-a3b-instruct-2507", 1e7, 262144, None, 151936),
        ("qwen3-30b-a3b-thinking-2507", 1e7, 262144, None, 151936),
        ("qwen/qwen3-235b-a22b-instruct-2507", 5e6, 262144, None, 151936),
        ("qwen3-235b-a22b-thinking-2507", 5e6, 262144, None, 151936),
        ("kimi-k2-instruct", 5e4, 131072, None, 163840),
        ("kimi-k2-instruct-0905", 5e4, 262144, None, 163840),
        ("moonshotai/kimi-k2-thinking", 5e4, 262144, None, 163840),
    ):
        config = zoo.architecture(other).config
        assert (config.rope_theta, config.max_context) == (theta, most), other
        assert (config.local and config.local.window) == window, other
        assert config.vocab_size == vocabulary, other
    for unknown in ("mistral-7b-v0.9", "qwen3-4b-instruct-2601", "llama-3.1-8b-thinking"):
        with pytest.raises(ModelError, match="did you mean"):
            zoo.architecture(unknown)


def test_what_is_not_here_is_refused_with_the_reason():
    with pytest.raises(ModelError, match=r"gpt-5.3-codex-spark is .*: its architecture is not pub"):
        zoo.architecture("gpt-5.3-codex-spark")
    assert "kimi-k3" not in zoo.names()


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
