"""GLM-4.5 to 4.7 (arXiv 2508.06471): dense layers first, then routed ones; half of a head turns."""

from typing import Any

from models.assembly import Names
from models.config import DecoderConfig
from models.experts_config import Experts
from models.families.family import ATTENTION, MLP, OUTER, Family
from models.fields import Fields

# DeepSeek-V3's names, which several families took over.
SHARED_AND_ROUTED: dict[str, str] = {
    "mlp.gate.weight": "mlp/router/kernel",
    "mlp.gate.e_score_correction_bias": "mlp/router/correction",
    "mlp.shared_experts.gate_proj.weight": "mlp/shared/gate/kernel",
    "mlp.shared_experts.up_proj.weight": "mlp/shared/up/kernel",
    "mlp.shared_experts.down_proj.weight": "mlp/shared/down/kernel",
    "mlp.experts.*.gate_proj.weight": "mlp/experts/gate/kernel",
    "mlp.experts.*.up_proj.weight": "mlp/experts/up/kernel",
    "mlp.experts.*.down_proj.weight": "mlp/experts/down/kernel",
}


def corrected_experts(fields: Fields) -> Experts:
    """The mixture of DeepSeek-V3, GLM-4.5 and Kimi K2, which name its numbers alike."""
    width = fields.integer("moe_intermediate_size")
    return Experts(
        count=fields.integer("n_routed_experts"),
        chosen=fields.integer("num_experts_per_tok"),
        width=width,
        scores="sigmoid",
        normalised=fields.flag("norm_topk_prob", True),
        factor=fields.number("routed_scaling_factor"),
        corrected=True,
        groups=fields.integer("n_group"),
        chosen_groups=fields.integer("topk_group"),
        shared_width=width * fields.integer("n_shared_experts"),
        dense_layers=fields.integer("first_k_dense_replace"),
    )


def _glm4_moe(fields: Fields) -> dict[str, Any]:
    width, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    head_width = fields.integer("head_dim", width // max(heads, 1))
    share = fields.record("rope_parameters").number(
        "partial_rotary_factor", fields.number("partial_rotary_factor", 0.5)
    )
    return {
        "rope_width": int(head_width * share),
        "attention_bias": fields.flag("attention_bias", False),
        "qk_norm": fields.flag("use_qk_norm", False),
        "experts": corrected_experts(fields),
    }


def _names(config: DecoderConfig) -> tuple[Names, Names]:
    return OUTER, ATTENTION | MLP | SHARED_AND_ROUTED


GLM4_MOE = Family(
    settings=_glm4_moe,
    defaults={
        "routed_scaling_factor": 1.0,
        "n_group": 1,
        "topk_group": 1,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
    },
    handles=frozenset({"attention_bias", "partial_rotary_factor"}),
    names=_names,
)
