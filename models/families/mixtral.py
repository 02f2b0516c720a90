"""Mixtral (arXiv 2401.04088), Qwen3-MoE and MiniMax-M2: every layer a mixture of experts.

Mixtral and Qwen3-MoE take a softmax over the router's products, MiniMax-M2 sigmoids, with a
correction for choosing; it turns half of each head, and normalises q and k over all heads at once.
"""

from typing import Any

from models.assembly import Names
from models.config import DecoderConfig, LocalLayers
from models.errors import ModelError
from models.experts_config import Experts
from models.families.family import ATTENTION, OUTER, Family
from models.fields import Fields


def _mixtral(fields: Fields) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "experts": Experts(
            count=fields.integer("num_local_experts"),
            chosen=fields.integer("num_experts_per_tok"),
            width=fields.integer("intermediate_size"),
        )
    }
    if fields.has("sliding_window"):
        settings["local"] = LocalLayers(window=fields.integer("sliding_window"))
    return settings


def _qwen3_moe(fields: Fields) -> dict[str, Any]:
    if fields.integer("decoder_sparse_step", 1) != 1 or fields.values.get("mlp_only_layers"):
        raise ModelError(f"{fields.source}: dense layers among the routed ones are not supported")
    has_own_key = fields.has("num_experts")
    return {
        "qk_norm": True,
        "experts": Experts(
            # transformers 5 writes it as the other families do
            count=fields.integer("num_experts" if has_own_key else "num_local_experts"),
            chosen=fields.integer("num_experts_per_tok"),
            width=fields.integer("moe_intermediate_size"),
            normalised=fields.flag("norm_topk_prob", False),
        ),
    }


def _minimax(fields: Fields) -> dict[str, Any]:
    rope = fields.record("rope_parameters")
    head_width = fields.integer("head_dim")
    turning = fields.integer("rotary_dim", head_width)
    return {
        "rope_width": int(head_width * rope.number("partial_rotary_factor", turning / head_width)),
        "qk_norm_over_heads": True,
        "experts": Experts(
            count=fields.integer("num_local_experts"),
            chosen=fields.integer("num_experts_per_tok"),
            width=fields.integer("intermediate_size"),
            scores="sigmoid",
            corrected=True,
        ),
    }


_MIXTURE = {
    "block_sparse_moe.gate.weight": "mlp/router/kernel",
    "block_sparse_moe.e_score_correction_bias": "mlp/router/correction",
    "block_sparse_moe.experts.*.w1.weight": "mlp/experts/gate/kernel",
    "block_sparse_moe.experts.*.w3.weight": "mlp/experts/up/kernel",
    "block_sparse_moe.experts.*.w2.weight": "mlp/experts/down/kernel",
}


def _mixtral_names(config: DecoderConfig) -> tuple[Names, Names]:
    return OUTER, ATTENTION | _MIXTURE


def _qwen3_moe_names(config: DecoderConfig) -> tuple[Names, Names]:
    return OUTER, ATTENTION | {
        "mlp.gate.weight": "mlp/router/kernel",
        "mlp.experts.*.gate_proj.weight": "mlp/experts/gate/kernel",
        "mlp.experts.*.up_proj.weight": "mlp/experts/up/kernel",
        "mlp.experts.*.down_proj.weight": "mlp/experts/down/kernel",
    }


MIXTRAL = Family(
    settings=_mixtral,
    defaults={"rope_theta": 1_000_000.0},
    handles=frozenset({"sliding_window"}),
    names=_mixtral_names,
)
QWEN3_MOE = Family(settings=_qwen3_moe, names=_qwen3_moe_names)
MINIMAX_M2 = Family(
    settings=_minimax,
    defaults={"rope_theta": 5_000_000.0, "head_dim": 128},
    handles=frozenset({"partial_rotary_factor"}),
    names=_mixtral_names,
)
