"""Tiny random models of the families without a GGUF reader here, with transformers' logits.

Each folder holds what a loader needs (config.json, model.safetensors, stored in bfloat16) and
`golden.npz`: `tokens` [48], random, and `logits` [48, vocab] after each of them. Every leaf is
random, norm scales, biases, sinks and routers too; windows are shorter than the prompt, and each
figure that sets a family apart is checked to change the logits.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

VOCAB_SIZE = 64
TOKENS = 48

COMMON: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "attn_implementation": "eager",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tiny:
    """One tiny model, and changes to its config that its logits must show."""

    model_type: str
    settings: Mapping[str, Any]
    visible: tuple[Mapping[str, Any], ...] = ()

    def config(self, **changes: Any) -> PretrainedConfig:
        """transformers' config."""
        settings = COMMON | dict(self.settings) | changes
        if settings["head_dim"] is None:  # the family derives it from other numbers
            del settings["head_dim"]
        return CONFIG_MAPPING[self.model_type](**settings)


def _theta(base: float, **more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": base, **more}


def _yarn(factor: float, **more: Any) -> dict[str, Any]:
    return {
        "rope_type": "yarn",
        "rope_theta": 1_000.0,
        "factor": factor,
        "original_max_position_embeddings": 64,
        "beta_fast": 4.0,
        "beta_slow": 1.0,
        **more,
    }


def _llama3(factor: float, low: float, high: float) -> dict[str, Any]:
    return {
        "rope_type": "llama3",
        "rope_theta": 1_000.0,
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": 64,
    }


_LATENT = {
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 12,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "num_key_value_heads": 4,
    "kv_lora_rank": 10,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "head_dim": None,
    "num_mtp_layers": 0,
}


_INDEXER = {"index_n_heads": 6, "index_head_dim": 8, "index_topk": 12}


TINY: dict[str, Tiny] = {
    "mistral": Tiny(
        model_type="mistral",
        settings={"sliding_window": 12, "rope_parameters": _theta(10_000.0)},
        visible=({"sliding_window": 13}, {"sliding_window": None}),
    ),
    "starcoder2": Tiny(
        model_type="starcoder2",
        settings={
            "head_dim": None,
            "hidden_size": 32,
            "sliding_window": 12,
            "rope_parameters": _theta(100_000.0),
        },
        visible=({"sliding_window": 13}, {"rope_parameters": _theta(10_000.0)}),
    ),
    "gemma3": Tiny(
        model_type="gemma3_text",
        settings={
            "num_hidden_layers": 5,
            "layer_types": ["sliding_attention", "full_attention"] * 2 + ["sliding_attention"],
            "num_key_value_heads": 1,
            "sliding_window": 12,
            "query_pre_attn_scalar": 12,
            "rope_parameters": {
                "sliding_attention": _theta(10_000.0),
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000.0},
            },
        },
        visible=(
            {"sliding_window": 13},
            {"query_pre_attn_scalar": 8},
            {
                "rope_parameters": {
                    "sliding_attention": _theta(10_000.0),
                    "full_attention": _theta(1_000.0),
                }
            },
            {
                "rope_parameters": {
                    "sliding_attention": _theta(1_000.0),
                    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000.0},
                }
            },
        ),
    ),
    "mixtral": Tiny(
        model_type="mixtral",
        settings={
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "rope_parameters": _theta(10_000.0),
        },
        visible=({"num_experts_per_tok": 1}, {"rope_parameters": _theta(1_000.0)}),
    ),
    "qwen3_moe": Tiny(
        model_type="qwen3_moe",
        settings={
            "num_experts": 8,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 12,
            "norm_topk_prob": True,
            "rope_parameters": _theta(10_000.0),
        },
        visible=({"norm_topk_prob": False}, {"num_experts_per_tok": 2}),
    ),
    "gpt_oss": Tiny(
        model_type="gpt_oss",
        settings={
            "num_hidden_layers": 3,
            "intermediate_size": 12,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 12,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": _yarn(32.0, truncate=False),
        },
        visible=(
            {"sliding_window": 13},
            {"rope_parameters": _yarn(16.0, truncate=False)},
            {"rope_parameters": _yarn(32.0, truncate=True)},
        ),
    ),
    "llama4": Tiny(
        model_type="llama4_text",
        settings={
            "num_hidden_layers": 4,
            "intermediate_size": 12,
            "intermediate_size_mlp": 20,
            "num_local_experts": 4,
            "num_experts_per_tok": 1,
            "interleave_moe_layer_step": 2,
            "attention_chunk_size": 12,
            "floor_scale": 8,
            "rope_parameters": _llama3(8.0, 1.0, 4.0),
        },
        visible=(
            {"attention_chunk_size": 13},
            {"floor_scale": 9},
            {"attn_temperature_tuning": False},
            {"use_qk_norm": False},
            {"rope_parameters": _llama3(1.0, 1.0, 4.0)},
        ),
    ),
    "llama4_scout": Tiny(  # every layer routed, and the step that Scout's RoPE has for a ramp
        model_type="llama4_text",
        settings={
            "num_hidden_layers": 2,
            "intermediate_size": 12,
            "intermediate_size_mlp": 20,
            "num_local_experts": 4,
            "num_experts_per_tok": 1,
            "interleave_moe_layer_step": 1,
            "no_rope_layers": [1, 0],
            "attention_chunk_size": 32,
            "attn_temperature_tuning": False,
            "use_qk_norm": False,
            "rope_parameters": _llama3(8.0, 1.0, 1.0),
        },
        visible=({"rope_parameters": _llama3(8.0, 1.0, 4.0)},),
    ),
    "glm4_moe": Tiny(
        model_type="glm4_moe",
        settings={
            "num_hidden_layers": 2,
            "first_k_dense_replace": 1,
            "moe_intermediate_size": 12,
            "n_routed_experts": 8,
            "num_experts_per_tok": 3,
            "routed_scaling_factor": 2.5,
            "attention_bias": True,
            "use_qk_norm": True,
            "num_mtp_layers": 0,
            "rope_parameters": _theta(10_000.0, partial_rotary_factor=0.5),
        },
        visible=(
            {"rope_parameters": _theta(10_000.0, partial_rotary_factor=1.0)},
            {"norm_topk_prob": False},
            {"routed_scaling_factor": 1.0},
        ),
    ),
    "minimax_m2": Tiny(
        model_type="minimax_m2",
        settings={
            "intermediate_size": 12,
            "num_local_experts": 8,
            "num_experts_per_tok": 3,
            "rope_parameters": _theta(10_000.0, partial_rotary_factor=0.5),
        },
        visible=({"rope_parameters": _theta(10_000.0, partial_rotary_factor=1.0)},),
    ),
    "deepseek_v3": Tiny(
        model_type="deepseek_v3",
        settings={
            **_LATENT,
            "q_lora_rank": 12,
            "n_group": 4,
            "topk_group": 2,
            "rope_parameters": _yarn(40.0, mscale=1.0, mscale_all_dim=1.0),
        },
        visible=(
            {"topk_group": 4},
            {"routed_scaling_factor": 1.0},
            {"rope_parameters": _yarn(40.0, mscale=0.5, mscale_all_dim=1.0)},
            {"rope_parameters": _yarn(40.0, mscale=1.0, mscale_all_dim=0.5)},
        ),
    ),
    "deepseek_v3_kimi": Tiny(  # Kimi K2's numbers: one group, and no ramp between YaRN's bounds
        model_type="deepseek_v3",
        settings={
            **_LATENT,
            "q_lora_rank": None,
            "qk_rope_head_dim": 8,
            "n_group": 1,
            "topk_group": 1,
            "rope_parameters": _yarn(32.0, mscale=1.0, mscale_all_dim=1.0, beta_fast=1.0),
        },
        visible=({"rope_parameters": _yarn(32.0, mscale=1.0, mscale_all_dim=1.0, beta_fast=4.0)},),
    ),
    "qwen3_5_moe": Tiny(  # two layers of gated delta rule, then one of gated attention
        model_type="qwen3_5_moe_text",
        settings={
            "num_hidden_layers": 3,
            "layer_types": ["linear_attention", "linear_attention", "full_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 12,
            "linear_value_head_dim": 8,
            "linear_conv_kernel_dim": 4,
            "moe_intermediate_size": 4,
            "shared_expert_intermediate_size": 12,
            "num_experts": 6,
            "num_experts_per_tok": 3,
            "rope_parameters": _theta(10_000.0, partial_rotary_factor=0.5),
        },
        visible=(
            {"rope_parameters": _theta(10_000.0, partial_rotary_factor=1.0)},
            {"num_experts_per_tok": 2},
        ),
    ),
    "deepseek_v2": Tiny(  # V2's routing: a softmax, and groups by their best expert
        model_type="deepseek_v2",
        settings={
            **_LATENT,
            "q_lora_rank": 12,
            "topk_method": "group_limited_greedy",
            "n_group": 4,
            "topk_group": 2,
            "routed_scaling_factor": 4.0,
            "n_shared_experts": 2,
            "rope_parameters": _yarn(40.0, mscale=0.707, mscale_all_dim=0.707),
        },
        visible=({"topk_method": "greedy"}, {"topk_group": 3}, {"routed_scaling_factor": 1.0}),
    ),
    "deepseek_v2_lite": Tiny(  # no latent for queries, and no groups
        model_type="deepseek_v2",
        settings={
            **_LATENT,
            "q_lora_rank": None,
            "topk_method": "greedy",
            "n_shared_experts": 2,
            "rope_parameters": _yarn(40.0, mscale=0.707, mscale_all_dim=0.707),
        },
        visible=({"num_experts_per_tok": 2},),
    ),
    "falcon": Tiny(  # one head of keys, one norm
        model_type="falcon",
        settings={"head_dim": None, "rope_parameters": _theta(10_000.0)},
        visible=({"rope_parameters": _theta(1_000.0)}, {"parallel_attn": False}),
    ),
    "falcon_40b": Tiny(  # the "new decoder architecture", here with biases as well
        model_type="falcon",
        settings={
            "head_dim": None,
            "num_kv_heads": 2,
            "ffn_hidden_size": 40,
            "new_decoder_architecture": True,
            "bias": True,
            "rope_parameters": _theta(10_000.0),
        },
        visible=({"num_ln_in_parallel_attn": 1},),
    ),
    "deepseek_v32": Tiny(  # an indexer that keeps 12 tokens
        model_type="deepseek_v32",
        settings={
            **_LATENT,
            **_INDEXER,
            "q_lora_rank": 12,
            "n_group": 4,
            "topk_group": 2,
            "rope_parameters": _yarn(40.0, mscale=1.0, mscale_all_dim=1.0),
        },
        visible=(
            {"index_topk": 13},
            {"topk_group": 4},
            {"rope_parameters": _yarn(40.0, mscale=1.0, mscale_all_dim=0.5)},
        ),
    ),
    "glm_moe_dsa": Tiny(  # GLM-5's: one group, values wider than keys, and no stretched RoPE
        model_type="glm_moe_dsa",
        settings={
            **_LATENT,
            **_INDEXER,
            "q_lora_rank": 14,
            "v_head_dim": 12,
            "rms_norm_eps": 1e-5,
            "rope_parameters": _theta(10_000.0),
        },
        visible=({"index_topk": 11}, {"rope_parameters": _theta(1_000.0)}),
    ),
}


def random_model(config: PretrainedConfig, seed: int) -> torch.nn.Module:
    """A float32 model with seeded random weights, each rounded to bfloat16."""
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(seed)
    leaves = [*model.named_parameters(), *_learnt_buffers(model)]
    for name, leaf in sorted(leaves, key=lambda named: named[0]):
        noise = torch.randn(leaf.shape, generator=generator)
        if name.endswith(("bias", "sinks", "A_log")):
            value = 0.5 * noise
        elif "norm" in name:
            value = 0.5 + torch.rand(leaf.shape, generator=generator)
        elif "embed_tokens" in name or "lm_head" in name:
            value = 0.4 * noise
        else:
            value = noise * 1.5 / leaf.shape[-1] ** 0.5
        leaf.data.copy_(value.to(torch.bfloat16).to(torch.float32))
    return model


def _learnt_buffers(model: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    """DeepSeek's correction of the router is stored as a buffer."""
    return [(name, b) for name, b in model.named_buffers() if "correction_bias" in name]


@contextlib.contextmanager
def clear_choices(chosen: int | None) -> Iterator[None]:
    """Checks that no best `chosen` of a longer row are a matter of rounding, or of order alone."""
    plain = torch.Tensor.topk

    def topk(scores: torch.Tensor, k: int, **how: Any) -> Any:
        if k == chosen and scores.shape[-1] > k:
            best = plain(scores, k + 1, dim=-1).values
            last, next_best = best[..., -2], best[..., -1]
            chosen_of_many = last > -1e30  # tokens to come are masked with the least number
            gap = (last - next_best)[chosen_of_many].min()
            assert gap > 1e-5, f"a choice hangs on {gap}"
        return plain(scores, k, **how)

    torch.Tensor.topk = topk
    try:
        yield
    finally:
        torch.Tensor.topk = plain


@torch.no_grad()
def logits_of(model: torch.nn.Module, tokens: np.ndarray) -> np.ndarray:
    """float32 [tokens, vocab] after each token."""
    return model(torch.tensor(tokens[None]).long(), use_cache=False).logits[0].float().numpy()


def make(out: Path) -> None:
    """Write zoo/NAME for every tiny model."""
    for seed, (name, tiny) in enumerate(TINY.items(), start=1):
        config = tiny.config()
        model = random_model(config, seed)
        generator = torch.Generator().manual_seed(1000 + seed)
        tokens = torch.randint(3, VOCAB_SIZE, [TOKENS], generator=generator).numpy()
        tokens = tokens.astype(np.int32)
        with clear_choices(tiny.settings.get("index_topk")):
            logits = logits_of(model, tokens)
        assert logits.std() > 0.5, f"{name}: logits hardly spread: {logits.std()}"
        for changes in tiny.visible:
            other = logits_of(random_model(tiny.config(**changes), seed), tokens)
            moved = float(np.abs(other - logits).max())
            assert moved > 0.01, f"{name}: {changes} does not show: {moved}"
        folder = out / "zoo" / name
        model.to(torch.bfloat16).save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        again = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        difference = float(np.abs(logits_of(again, tokens) - logits).max())
        assert difference < 1e-4, f"{name} reads back {difference} away from what was saved"
        np.savez(folder / "golden.npz", tokens=tokens, logits=logits)
        size = sum(file.stat().st_size for file in folder.iterdir())
        kind = json.loads((folder / "config.json").read_text())["model_type"]
        print(f"zoo/{name}: {kind}, {size} bytes, logits up to {np.abs(logits).max():.1f}")
        assert size < 60_000
