"""DeepSeek-V2, V3 and R1, Kimi K2: latent attention, dense layers, then routed ones.

V3 (arXiv 2412.19437) routes by sigmoids and a learnt correction, V2 (arXiv 2405.04434) by a
softmax; V2's small model chooses among all experts, its large one among those of the best groups.
The rotary channels of q's heads and of the shared key lie in pairs in the files.
"""

import math
from typing import Any

from models.assembly import Names, Part
from models.config import DecoderConfig
from models.errors import ModelError
from models.experts_config import Experts
from models.families.family import ATTENTION, MLP, OUTER, Family
from models.families.glm4_moe import SHARED_AND_ROUTED, corrected_experts
from models.families.rotary_pairs import halves
from models.fields import Fields
from models.latent_config import Latent


def _deepseek_v3(fields: Fields) -> dict[str, Any]:
    return {**latent_attention(fields), "experts": corrected_experts(fields)}


def _deepseek_v2(fields: Fields) -> dict[str, Any]:
    if fields.flag("norm_topk_prob", False):
        raise ModelError(f"{fields.source}: norm_topk_prob true is not supported with deepseek_v2")
    method = fields.text("topk_method", "greedy")
    if method not in ("greedy", "group_limited_greedy"):
        raise ModelError(f"{fields.source}: topk_method {method!r} is not supported")
    width, in_groups = fields.integer("moe_intermediate_size"), method != "greedy"
    experts = Experts(
        count=fields.integer("n_routed_experts"),
        chosen=fields.integer("num_experts_per_tok"),
        width=width,
        normalised=False,
        factor=fields.number("routed_scaling_factor"),
        groups=fields.integer("n_group") if in_groups else 1,
        chosen_groups=fields.integer("topk_group") if in_groups else 1,
        group_best=1,
        shared_width=width * fields.integer("n_shared_experts"),
        dense_layers=fields.integer("first_k_dense_replace"),
    )
    return {**latent_attention(fields), "experts": experts}


def latent_attention(fields: Fields) -> dict[str, Any]:
    """The settings of latent attention, which DeepSeek's heirs name alike."""
    if not fields.flag("rope_interleave", True):
        raise ModelError(f"{fields.source}: rope_interleave false is not supported")
    turning, staying = fields.integer("qk_rope_head_dim"), fields.integer("qk_nope_head_dim")
    return {
        "kv_heads": fields.integer("num_attention_heads"),
        "head_width": turning + staying,
        "query_factor": _query_factor(fields),
        "latent": Latent(
            rank=fields.integer("kv_lora_rank"),
            rope_width=turning,
            value_width=fields.integer("v_head_dim"),
            query_rank=fields.integer("q_lora_rank") if fields.has("q_lora_rank") else None,
        ),
    }


def _query_factor(fields: Fields) -> float:
    """What YaRN multiplies the scores by, beside the magnitude of cosine and sine."""
    rope = fields.record("rope_parameters" if fields.has("rope_parameters") else "rope_scaling")
    rate, factor = rope.number("mscale_all_dim", 0.0), rope.number("factor", 1.0)
    if rope.text("rope_type", rope.text("type", "default")) == "default" or factor <= 1:
        return 1.0
    return (0.1 * rate * math.log(factor) + 1) ** 2


def latent_names(config: DecoderConfig) -> tuple[Names, Names]:
    """DeepSeek-V3's names."""
    latent = config.latent
    assert latent is not None
    heads = halves(head_width=config.head_width, turning=latent.rope_width)
    key = halves(head_width=latent.rank + latent.rope_width, turning=latent.rope_width)
    q = Part(path="attention/q/kernel", take=heads, is_view=False)
    attention: Names = {
        "input_layernorm.weight": ATTENTION["input_layernorm.weight"],
        "post_attention_layernorm.weight": ATTENTION["post_attention_layernorm.weight"],
        "self_attn.q_proj.weight": q,
        "self_attn.q_a_proj.weight": "attention/q_down/kernel",
        "self_attn.q_a_layernorm.weight": "attention/q_down_norm/scale",
        "self_attn.q_b_proj.weight": q,
        "self_attn.kv_a_proj_with_mqa.weight": Part(
            path="attention/kv_down/kernel", take=key, is_view=False
        ),
        "self_attn.kv_a_layernorm.weight": "attention/kv_down_norm/scale",
        "self_attn.kv_b_proj.weight": "attention/kv/kernel",
        "self_attn.o_proj.weight": "attention/o/kernel",
    }
    return OUTER, {**attention, **MLP, **SHARED_AND_ROUTED}


DEEPSEEK_V2 = Family(
    settings=_deepseek_v2,
    defaults={"routed_scaling_factor": 1.0, "n_shared_experts": 2, "first_k_dense_replace": 0},
    names=latent_names,
)
DEEPSEEK_V3 = Family(
    settings=_deepseek_v3,
    defaults={
        "routed_scaling_factor": 2.5,
        "n_group": 8,
        "topk_group": 4,
        "n_shared_experts": 1,
        "first_k_dense_replace": 3,
    },
    names=latent_names,
)
