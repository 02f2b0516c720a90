"""Tiny random models of every family, as Hugging Face folders, with transformers' own outputs.

Every leaf is random, norm scales and biases too (with their usual 1 and 0 a loader that forgets
them would pass), and large enough for the logits to spread. Each folder differs in what files
differ in: one file or several, float32, float16 or bfloat16, tied or untied, template beside or
inside tokenizer_config.json.
"""

import dataclasses
import json
from pathlib import Path

import golden_tokenizer
import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

PROMPTS = ("def add", "for i in range(3):\n    x")
GREEDY_TOKENS = 16
LONG_TOKENS = 240  # far enough for a slow rotation to be seen

COMMON = {
    "vocab_size": golden_tokenizer.VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "attn_implementation": "eager",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tiny:
    """One tiny model: its configuration and how its folder is written."""

    name: str
    config: PretrainedConfig
    pre: str
    stored: torch.dtype  # in the folder
    values: (
        torch.dtype
    )  # what the weights are rounded to; also the GGUF file's type, if there is one
    max_shard_size: str = "5GB"
    template_in_json: bool = False


def tiny_models() -> tuple[Tiny, ...]:
    """The four tiny models."""
    return (
        Tiny(  # grouped-query attention, untied, in several files
            name="tiny_llama",
            config=LlamaConfig(
                **COMMON,
                num_key_value_heads=2,
                tie_word_embeddings=False,
                rms_norm_eps=1e-5,
                rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            ),
            pre="smollm",
            stored=torch.bfloat16,
            values=torch.bfloat16,
            max_shard_size="25KB",
            template_in_json=True,
        ),
        Tiny(  # Llama 3's stretched RoPE; multi-query; head width unlike width / heads
            name="tiny_llama3",
            config=LlamaConfig(
                **COMMON | {"max_position_embeddings": 131_072},
                num_key_value_heads=1,
                head_dim=16,
                tie_word_embeddings=True,
                rms_norm_eps=1e-5,
                rope_parameters={
                    "rope_type": "llama3",
                    "rope_theta": 500_000.0,
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192,
                },
            ),
            pre="smollm",
            stored=torch.float16,
            values=torch.float16,
        ),
        Tiny(  # biases on q, k and v
            name="tiny_qwen2",
            config=Qwen2Config(
                **COMMON,
                num_key_value_heads=2,
                tie_word_embeddings=True,
                rms_norm_eps=1e-6,
                rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
            ),
            pre="qwen2",
            stored=torch.float32,
            values=torch.float16,
        ),
        Tiny(  # RMSNorm over each head's q and k
            name="tiny_qwen3",
            config=Qwen3Config(
                **COMMON,
                num_key_value_heads=2,
                head_dim=16,
                tie_word_embeddings=True,
                rms_norm_eps=1e-6,
                rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
            ),
            pre="qwen2",
            stored=torch.bfloat16,
            values=torch.bfloat16,
        ),
    )


def random_model(config: PretrainedConfig, seed: int, dtype: torch.dtype) -> torch.nn.Module:
    """A float32 model with seeded random weights, each rounded to dtype."""
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, leaf in sorted(model.named_parameters()):
        if name.endswith("bias"):
            value = 0.5 * torch.randn(leaf.shape, generator=generator)
        elif "norm" in name:
            value = 0.5 + torch.rand(leaf.shape, generator=generator)
        elif "embed_tokens" in name or "lm_head" in name:
            value = 0.4 * torch.randn(leaf.shape, generator=generator)
        else:
            value = torch.randn(leaf.shape, generator=generator) * 1.5 / leaf.shape[1] ** 0.5
        leaf.data.copy_(value.to(dtype).to(torch.float32))
    return model


@torch.no_grad()
def outputs(model: torch.nn.Module, prompt_ids: list[list[int]]) -> dict[str, np.ndarray]:
    """Per prompt: its ids, float32 logits [tokens, vocab] and 16 greedy tokens, each prompt alone.

    `long_prompt` is 240 random ids, `long_logits` [2, vocab] those after the last two. `margin` is
    the smallest distance between the best and the second-best logit of any greedy step: far above
    rounding, so that the tokens are no matter of luck.
    """
    golden: dict[str, np.ndarray] = {}
    margins = []
    for index, prompt in enumerate(prompt_ids):
        logits = model(torch.tensor([prompt]), use_cache=False).logits[0]
        assert logits.std() > 1
        ids = list(prompt)
        for _ in range(GREEDY_TOKENS):
            last = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
            best = last.topk(2)
            margins.append(float(best.values[0] - best.values[1]))
            ids.append(int(best.indices[0]))
        golden[f"prompt_{index}"] = np.asarray(prompt, np.int32)
        golden[f"logits_{index}"] = logits.numpy().astype(np.float32)
        golden[f"greedy_{index}"] = np.asarray(ids[len(prompt) :], np.int32)
    assert min(margins) > 1e-3, f"a greedy step is a tie within rounding: {min(margins)}"
    generator = torch.Generator().manual_seed(100)
    long_prompt = torch.randint(3, golden_tokenizer.VOCAB_SIZE, [LONG_TOKENS], generator=generator)
    golden["long_prompt"] = long_prompt.numpy().astype(np.int32)
    golden["long_logits"] = long_logits(model, golden["long_prompt"])
    golden["margin"] = np.float32(min(margins))
    return golden


@torch.no_grad()
def long_logits(model: torch.nn.Module, long_prompt: np.ndarray) -> np.ndarray:
    """float32 [2, vocab] after the last two tokens."""
    return model(torch.tensor(long_prompt[None]), use_cache=False).logits[0, -2:].numpy()


def save_folder(tiny: Tiny, model: torch.nn.Module, folder: Path) -> None:
    """Write a complete Hugging Face folder."""
    # Exact: random_model rounded every leaf already.
    saved = AutoModelForCausalLM.from_config(tiny.config, dtype=tiny.stored)
    saved.load_state_dict({k: v.to(tiny.stored) for k, v in model.state_dict().items()})
    # Two ways to stop, as the instruct models have.
    saved.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=[2, 0], pad_token_id=2)
    saved.save_pretrained(folder, max_shard_size=tiny.max_shard_size)
    tokenizer = golden_tokenizer.wrap(golden_tokenizer.train(tiny.pre))
    tokenizer.save_pretrained(folder, save_jinja_files=not tiny.template_in_json)


def make(out: Path) -> None:
    """Write the four folders and, beside each, NAME.npz with transformers' outputs."""
    for seed, tiny in enumerate(tiny_models()):
        model = random_model(tiny.config, seed, tiny.values)
        tokenizer = golden_tokenizer.train(tiny.pre)
        prompt_ids = [tokenizer.encode(text).ids for text in PROMPTS]
        golden = outputs(model, prompt_ids)
        if tiny.name == "tiny_llama3":
            # The stretching must be visible in the golden logits, or nothing would test it.
            plain = json.loads(tiny.config.to_json_string())
            plain["rope_parameters"] = {"rope_type": "default", "rope_theta": 500_000.0}
            unscaled = random_model(LlamaConfig(**plain), seed, tiny.values)
            changed = long_logits(unscaled, golden["long_prompt"]) - golden["long_logits"]
            assert np.abs(changed).max() > 0.1, f"RoPE scaling changes nothing: {changed}"
            print(f"{tiny.name}: RoPE scaling changes the logits by {np.abs(changed).max():.2f}")
        folder = out / tiny.name
        save_folder(tiny, model, folder)
        check_folder(folder, golden)
        np.savez(out / f"{tiny.name}.npz", **golden)
        print(f"{tiny.name}: prompts {[len(p) for p in prompt_ids]}, margin {golden['margin']:.4f}")


@torch.no_grad()
def outputs_difference(model: torch.nn.Module, golden: dict[str, np.ndarray]) -> float:
    """Largest difference between a model's logits and the golden ones, over both prompts."""
    return max(
        float(np.abs(model(torch.tensor(golden[f"prompt_{i}"][None])).logits[0].numpy()
                     - golden[f"logits_{i}"]).max())
        for i in range(len(PROMPTS))
    )  # fmt: skip


def check_folder(folder: Path, golden: dict[str, np.ndarray]) -> None:
    """What transformers reads back from the folder gives the golden logits."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    difference = outputs_difference(model, golden)
    assert difference < 1e-4, f"{folder.name} reads back {difference} away from what was saved"
