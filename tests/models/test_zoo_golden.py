"""The families of the zoo at toy size, against transformers' logits (golden/golden_zoo.py).

Nearly all of the time is compiling, so XLA is asked for its quickest: what is computed is tested.
"""

import dataclasses
import functools
import json
import shutil
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import kernels
from models.cache import new_cache
from models.checkpoint import open_checkpoint
from models.decoder import Stack
from models.errors import ModelError
from models.families import FAMILIES
from models.fields import Fields
from models.huggingface_config import decoder_config
from models.latent_attention import LatentAttention
from models.slots import ScaledSlots
from models.stacking import stack_layers
from models.steps import decode_step, layer_step, prefill, shapes
from models.weights import load_weights, reads_in_place
from tests.quickly import jit_quickly

ZOO = Path(__file__).parent.parent / "golden" / "zoo"
NAMES = sorted(folder.name for folder in ZOO.iterdir())
# Measured: up to 1.1e-5 on logits of up to 12 (float32 sums in another order), and 6.2e-5 with the
# gated delta rule, of which transformers has two forms that are 6.5e-5 apart.
TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loaded:
    config: object
    weights: dict
    tokens: np.ndarray
    logits: np.ndarray
    step: object
    prefill: object

    def cache(self, **how):
        return new_cache(self.config, batch=1, length=64, **how)


@functools.cache
def loaded(name):
    checkpoint = open_checkpoint(ZOO / name)
    golden = np.load(ZOO / name / "golden.npz")
    return Loaded(
        config=checkpoint.config,
        weights=load_weights(checkpoint),
        tokens=golden["tokens"],
        logits=golden["logits"],
        step=jit_quickly(functools.partial(decode_step, checkpoint.config, in_place=True)),
        prefill=jit_quickly(functools.partial(prefill, checkpoint.config)),
    )


def decoded(model, cache, pieces, weights=None):
    """Logits [48, vocab], the tokens given in pieces of these sizes."""
    assert sum(pieces) == len(model.tokens)
    out = []
    for piece in np.split(model.tokens, np.cumsum(pieces)[:-1]):
        logits, cache = model.step(weights or model.weights, cache, piece[None])
        out.append(logits[0])
    return np.concatenate(out)


@pytest.mark.newest
@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_transformers(name):
    model = loaded(name)
    np.testing.assert_allclose(decoded(model, model.cache(), [48]), model.logits, atol=TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_scanned_layers_eight_tokens_at_a_time_then_one_by_one(name):
    # Rings of `window + at_once - 1` slots go round several times in 48 tokens.
    model = loaded(name)
    stacked = stack_layers(model.config, model.weights)
    chex.assert_trees_all_equal_shapes_and_dtypes(stacked, shapes(model.config, scanned=True))
    cache = model.cache(at_once=8, scanned=True)
    got = decoded(model, cache, [8, 8, 8, 8, *[1] * 16], stacked)
    np.testing.assert_allclose(got, model.logits, atol=TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_layers_are_stacked_where_a_step_slices_none_of_them_out(name, monkeypatch):
    model = loaded(name)
    sliced = []
    scan = Stack._scan
    monkeypatch.setattr(Stack, "_scan", lambda *args: sliced.append(1) or scan(*args))
    step = functools.partial(decode_step, model.config, in_place=True)
    cache = model.cache(scanned=True)
    jax.eval_shape(step, shapes(model.config, scanned=True), cache, jnp.ones((1, 1), jnp.int32))
    dense = model.config.experts is None  # experts are sliced by no scan, but where they are taken
    assert reads_in_place(model.config, "float32") == (dense and not sliced)
    assert not reads_in_place(model.config, "int4")
    assert not reads_in_place(dataclasses.replace(model.config, arithmetic="bfloat16"), "float32")


def test_without_native_products_no_step_reads_in_place(monkeypatch):
    config = loaded("falcon").config
    assert reads_in_place(config, "float32") == kernels.native()
    monkeypatch.setattr(kernels, "native", lambda: False)
    assert not reads_in_place(config, "float32")


@pytest.mark.parametrize("name", NAMES)
def test_prompts_of_unequal_lengths_in_a_batch_then_token_by_token(name):
    model = loaded(name)
    lengths = np.array([9, 20])
    cache = new_cache(model.config, batch=2, length=64, at_once=20)
    tokens = np.stack([model.tokens[:20]] * 2)
    logits, cache = model.prefill(model.weights, cache, tokens, lengths)
    np.testing.assert_allclose(logits, model.logits[lengths - 1], atol=TOLERANCE)
    for step in range(28):  # to the end, round the rings
        next_tokens = model.tokens[lengths + step][:, None]
        logits, cache = model.step(model.weights, cache, next_tokens)
        np.testing.assert_allclose(logits[:, 0], model.logits[lengths + step], atol=TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_layers_alone_take_hidden_states(name):
    model = loaded(name)
    hidden = jnp.ones((1, 1, model.config.width))
    layers = {"layers": model.weights["layers"]}
    step = functools.partial(layer_step, model.config)
    out, cache = jax.eval_shape(step, layers, model.cache(), hidden)
    assert out.shape == hidden.shape
    chex.assert_trees_all_equal_shapes_and_dtypes(cache, model.cache())


def test_hidden_states_that_layers_give_are_numbers():
    model = loaded("mistral")
    hidden = jnp.ones((1, 1, model.config.width))
    step = jit_quickly(functools.partial(layer_step, model.config))
    out, cache = step({"layers": model.weights["layers"]}, model.cache(), hidden)
    assert np.isfinite(out).all()
    assert cache.position.tolist() == [1]


def test_every_family_has_a_golden_model():
    kinds = {json.loads((ZOO / n / "config.json").read_text())["model_type"] for n in NAMES}
    elsewhere = {"llama", "qwen2", "qwen3"}  # test_golden.py
    assert kinds | elsewhere | {"kimi_k2"} == set(FAMILIES)  # Kimi K2 is deepseek_v3 by its code


def test_a_ring_keeps_the_window_and_what_comes_at_once():
    model = loaded("gemma3")
    cache = model.cache(at_once=4)
    assert [keys.shape[2] for keys in cache.keys] == [15, 64, 15, 64, 15]
    assert cache.length == 64
    with pytest.raises(ModelError, match="5 tokens at once, and it was made for 4"):
        model.step(model.weights, cache, model.tokens[None, :5])


def test_rejected_tokens_leave_a_ring_as_it_was():
    model = loaded("mistral")
    cache = model.cache(at_once=8)
    for start in range(0, 24, 8):
        _, cache = model.step(model.weights, cache, model.tokens[None, start : start + 8])
    _, drafted = model.step(model.weights, cache, model.tokens[None, 24:32][:, ::-1])
    cache = drafted.rewind(jnp.asarray([24]))
    for n in range(24, 30):
        logits, cache = model.step(model.weights, cache, model.tokens[None, n : n + 1])
        np.testing.assert_allclose(logits[0, 0], model.logits[n], atol=TOLERANCE)


INDEXED = ["deepseek_v32", "glm_moe_dsa"]


@pytest.mark.parametrize("name", INDEXED)
def test_tokens_that_an_indexer_passed_over_are_masked_where_keys_are_expanded(name, monkeypatch):
    # At toy size it never pays, so that the other tests look tokens up.
    monkeypatch.setattr(LatentAttention, "_pays_to_expand", lambda *_: True)
    model = loaded(name)
    step = jit_quickly(functools.partial(decode_step, model.config))
    logits, _ = step(model.weights, model.cache(), model.tokens[None])
    np.testing.assert_allclose(logits[0], model.logits, atol=TOLERANCE)


def test_an_indexer_that_keeps_every_token_changes_nothing():
    model = loaded("deepseek_v32")
    latent = model.config.latent

    def logits(indexer, weights):
        latents = dataclasses.replace(latent, indexer=indexer)
        config = dataclasses.replace(model.config, latent=latents)
        cache = new_cache(config, batch=1, length=64)
        step = jit_quickly(functools.partial(decode_step, config))
        return step(weights, cache, model.tokens[None])[0]

    without = jax.tree.map(lambda leaf: leaf, model.weights)
    for layer in without["layers"].values():
        del layer["attention"]["indexer"]
    kept = logits(dataclasses.replace(latent.indexer, chosen=64), model.weights)
    np.testing.assert_allclose(kept, logits(None, without), atol=TOLERANCE)
    assert np.abs(kept[0] - model.logits).max() > 0.1  # it keeps 12 of 48


def test_an_indexers_keys_are_held_as_the_others_are():
    model = loaded("deepseek_v32")
    cache = model.cache(dtype="int8")
    assert all(isinstance(slots, ScaledSlots) for slots in cache.index_keys)
    logits, after = model.step(model.weights, cache, model.tokens[None, :24])
    assert np.abs(after.index_keys[0].numbers[:, :, :24]).max() == 127
    # Rounded to 8 bits, some tokens' scores choose others. Seen: a median of 0.9 % of the standard
    # deviation, 8.9 % at the 95th percentile, and all greedy tokens the same.
    off = np.abs(logits[0] - model.logits[:24]) / np.std(model.logits)
    assert np.median(off) < 0.05
    assert np.quantile(off, 0.95) < 0.15
    same = np.argmax(logits[0], axis=-1) == np.argmax(model.logits[:24], axis=-1)
    assert np.mean(same) > 0.9


@pytest.mark.parametrize(
    ("changed", "refused"),
    [
        ({"indexer_types": ["full", "shared"]}, "indexer_types has 'shared' for layer 1"),
        ({"index_topk_freq": 4}, "layers that share an indexer's choice"),
        ({"mlp_layer_types": ["sparse", "sparse"]}, "mlp_layer_types has 'sparse' for layer 0"),
        ({"layer_types": ["indexed_attention", "full_attention"]}, "layer_types has 'full_att"),
        ({"q_lora_rank": None}, "an indexer needs the latent that queries come from"),
        ({"index_topk": 0}, "the indexer's chosen must be at least 1, not 0"),
        ({"index_head_dim": 2}, "the indexer turns 4 channels and is 2 wide"),
        ({"indexer_rope_interleave": False}, "indexer_rope_interleave false is not supported"),
    ],
)
def test_indexers_that_are_not_supported_are_refused(changed, refused):
    config = json.loads((ZOO / "glm_moe_dsa" / "config.json").read_text())
    with pytest.raises(ModelError, match=refused):
        decoder_config(Fields(values=config | changed, source="config.json"), has_head=True)


def test_layers_that_guess_ahead_are_left_out(tmp_path):
    folder = tmp_path / "deepseek"
    shutil.copytree(ZOO / "deepseek_v3", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_nextn_predict_layers": 1}))
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    tensors["model.layers.2.eh_proj.weight"] = np.ones((4, 4), np.float32)
    tensors["model.layers.2.input_layernorm.weight"] = np.ones(4, np.float32)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    assert open_checkpoint(folder).tensor_names == open_checkpoint(ZOO / "deepseek_v3").tensor_names
    tensors["model.layers.3.input_layernorm.weight"] = np.ones(4, np.float32)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match="not known to this architecture"):
        open_checkpoint(folder)


@pytest.mark.parametrize("name", NAMES)
def test_arithmetic_in_bfloat16_is_the_same_model(name):
    model = loaded(name)
    config = dataclasses.replace(model.config, arithmetic="bfloat16")
    step = jit_quickly(functools.partial(decode_step, config))
    logits, _ = step(model.weights, model.cache(), jnp.asarray(model.tokens[None, :24]))
    off = np.abs(np.asarray(logits[0]) - model.logits[:24])
    # bfloat16 keeps 8 bits; a router may send single tokens elsewhere.
    assert np.median(off) < 0.05 * np.std(model.logits)
