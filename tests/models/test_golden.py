"""Tiny models against what Hugging Face transformers computed (golden/make_golden.py).

About 40 seconds, nearly all of it compiling.
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

from models.cache import new_cache
from models.checkpoint import open_checkpoint
from models.config import RopeScaling
from models.steps import decode_step, prefill
from models.weights import load_weights

GOLDEN = Path(__file__).parent.parent / "golden"
FOLDERS = ("tiny_llama", "tiny_llama3", "tiny_qwen2", "tiny_qwen3")
# tiny_mixed's kernels are of all nine tensor types that a GGUF file may hold.
MODELS = (*FOLDERS, "tiny_mixed.gguf")
QUANT_TYPES = ("F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q5_K", "Q6_K")

# Measured: 1.6e-5 after the short prompts, 4.8e-5 after 240 tokens, on logits of up to 9.3 (float32
# sums in another order). A theta of 10,001 for 10,000 changes them by 1.3e-4 and 2.4e-3.
TOLERANCE = 1e-4
LENGTH = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loaded:
    config: object
    weights: dict
    golden: dict
    prefill: object
    decode: object

    def cache(self, batch):
        return new_cache(self.config, batch=batch, length=LENGTH)

    def prompt(self, index):
        return self.golden[f"prompt_{index}"][None]

    def greedy(self, logits, cache, steps):
        """Tokens [B, steps], the first of them from `logits` [B, vocab]."""
        tokens = []
        for _ in range(steps):
            tokens.append(jnp.argmax(logits, axis=-1).astype(jnp.int32))
            logits, cache = self.decode(self.weights, cache, tokens[-1][:, None])
            logits = logits[:, 0]
        return np.stack(tokens, axis=1)


@functools.cache
def loaded(name):
    checkpoint = open_checkpoint(GOLDEN / name)
    return Loaded(
        config=checkpoint.config,
        weights=load_weights(checkpoint),
        golden=dict(np.load(GOLDEN / f"{Path(name).stem}.npz")),
        prefill=jax.jit(functools.partial(prefill, checkpoint.config)),
        decode=jax.jit(functools.partial(decode_step, checkpoint.config)),
    )


def assert_close(logits, golden):
    np.testing.assert_allclose(logits, golden, rtol=0, atol=TOLERANCE)


@pytest.mark.newest
@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("name", MODELS)
def test_logits_after_every_token_of_a_prompt(name, index):
    model = loaded(name)
    logits, cache = model.decode(model.weights, model.cache(1), model.prompt(index))
    assert_close(logits[0], model.golden[f"logits_{index}"])
    assert cache.position.tolist() == [model.prompt(index).shape[1]]


@pytest.mark.parametrize("name", MODELS)
def test_logits_token_by_token(name):
    model, cache = loaded(name), loaded(name).cache(1)
    for token, golden in zip(model.prompt(1)[0], model.golden["logits_1"], strict=True):
        logits, cache = model.decode(model.weights, cache, np.array([[token]]))
        assert_close(logits[0, 0], golden)


@pytest.mark.parametrize("name", MODELS)
def test_logits_three_tokens_at_a_time(name):
    # As the verification step of speculative decoding runs.
    model, cache = loaded(name), loaded(name).cache(1)
    for start in range(0, 15, 3):
        tokens = model.prompt(1)[:, start : start + 3]
        logits, cache = model.decode(model.weights, cache, tokens)
        assert_close(logits[0], model.golden["logits_1"][start : start + 3])


@pytest.mark.parametrize("name", MODELS)
def test_prefill_in_chunks_of_three_then_greedy(name):
    model, cache = loaded(name), loaded(name).cache(1)
    prompt = model.prompt(1)[0]
    for start in range(0, len(prompt), 3):
        real = prompt[start : start + 3]
        # The last chunk holds one token; what stands behind it must not matter.
        chunk = np.concatenate([real, np.full(3 - len(real), 77, np.int32)])[None]
        logits, cache = model.prefill(model.weights, cache, chunk, np.array([len(real)]))
    assert_close(logits[0], model.golden["logits_1"][-1])
    assert model.greedy(logits, cache, 16).tolist() == [model.golden["greedy_1"].tolist()]


@pytest.mark.parametrize("name", MODELS)
def test_batch_of_prompts_of_different_lengths_then_greedy(name):
    model = loaded(name)
    prompts = [model.prompt(0)[0], model.prompt(1)[0]]
    lengths = np.array([len(prompt) for prompt in prompts])
    tokens = np.full((2, max(lengths)), 77, np.int32)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: len(prompt)] = prompt
    logits, cache = model.prefill(model.weights, model.cache(2), tokens, lengths)
    assert_close(logits, np.stack([model.golden[f"logits_{i}"][-1] for i in (0, 1)]))
    assert cache.position.tolist() == lengths.tolist()
    golden = [model.golden[f"greedy_{i}"].tolist() for i in (0, 1)]
    assert model.greedy(logits, cache, 16).tolist() == golden


@pytest.mark.parametrize("name", MODELS)
def test_logits_far_into_a_context(name):
    # 240 tokens: Llama 3's stretching changes these logits by 1.3, and slow rotations count.
    model = loaded(name)
    tokens = model.golden["long_prompt"][None]
    first, cache = model.prefill(
        model.weights, model.cache(1), tokens[:, :-1], np.array([tokens.shape[1] - 1])
    )
    second, _ = model.decode(model.weights, cache, tokens[:, -1:])
    assert_close(jnp.concatenate([first, second[0]]), model.golden["long_logits"])


@pytest.mark.parametrize("name", ["tiny_llama3", "tiny_qwen2", "tiny_qwen3"])
def test_gguf_holds_the_same_model_as_the_folder(name):
    folder, file = open_checkpoint(GOLDEN / name), open_checkpoint(GOLDEN / f"{name}.gguf")
    # A GGUF header has the epsilon and theta in float32.
    epsilon, theta = float(np.float32(folder.config.norm_epsilon)), folder.config.rope_theta
    assert file.config == dataclasses.replace(
        folder.config, norm_epsilon=epsilon, rope_theta=float(np.float32(theta))
    )
    # F16 and BF16 hold these weights exactly, and q and k must come back in our order.
    chex.assert_trees_all_equal(load_weights(file), load_weights(folder))


def test_the_golden_files_are_as_varied_as_they_say():
    assert len(list((GOLDEN / "tiny_llama").glob("*.safetensors"))) == 3
    kinds = {name: set(open_checkpoint(GOLDEN / name).stored_dtypes.values()) for name in MODELS}
    assert kinds["tiny_llama"] == kinds["tiny_qwen3"] == {"BF16"}
    assert kinds["tiny_llama3"] == {"F16"}
    assert kinds["tiny_qwen2"] == {"F32"}
    assert kinds["tiny_mixed.gguf"] == {"F32", *QUANT_TYPES}
    llama, llama3, qwen2, qwen3 = (loaded(name).config for name in FOLDERS)
    assert not llama.tied_embeddings
    assert llama3.tied_embeddings
    assert llama3.rope_scaling == RopeScaling(
        factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_context=8192
    )
    assert qwen2.attention_bias
    assert qwen3.qk_norm
    assert qwen3.head_width * qwen3.heads != qwen3.width


@pytest.mark.parametrize("name", FOLDERS)
def test_config_json_as_transformers_4_wrote_it(name, tmp_path):
    # Until version 5 the rotary fields stood apart, and most published folders have them so.
    folder = tmp_path / name
    shutil.copytree(GOLDEN / name, folder)
    config = json.loads((folder / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    config["torch_dtype"] = config.pop("dtype")
    (folder / "config.json").write_text(json.dumps(config))
    assert open_checkpoint(folder).config == open_checkpoint(GOLDEN / name).config
