"""Llama 4: routed layers with a shared expert, chunks of context in three layers of four.

The fourth attends to all tokens, without positions, and its queries grow with the position. One
expert of many takes a token, scaled by the router's sigmoid. The files' rotary channels lie in
pairs, and each expert's gate and up in one kernel, [in, out]. It normalises q and k behind the
rotation; we do it before, which is the same, as rotation keeps lengths.
"""

from typing import Any

import numpy as np

from models.assembly import Names, Part
from models.config import DecoderConfig, LocalLayers
from models.errors import ModelError
from models.experts_config import Experts
from models.families.family import ATTENTION, OUTER, Family
from models.families.layer_types import local_pattern
from models.families.rotary_pairs import halves
from models.fields import Fields


def _llama4(fields: Fields) -> dict[str, Any]:
    layers = fields.integer("num_hidden_layers")
    every = fields.integer("interleave_moe_layer_step", 1)
    pattern = local_pattern(
        fields,
        "chunked_attention",
        "full_attention",
        every=fields.integer("no_rope_layer_interval", 4),
    )
    if fields.values.get("no_rope_layers"):  # 1 where positions are told, as they are in chunks
        told = fields.integers("no_rope_layers")
        if [bool(flag) for flag in told] != [pattern[n % len(pattern)] for n in range(layers)]:
            raise ModelError(
                f"{fields.source}: no_rope_layers must be the layers that attend to all tokens"
            )
    if fields.has("moe_layers") and every >= 1:
        routed = list(range(every - 1, layers, every))
        if fields.integers("moe_layers") != routed:
            raise ModelError(f"{fields.source}: moe_layers must be every {every}th layer")
    tuned = fields.flag("attn_temperature_tuning", True)
    return {
        "mlp_width": fields.integer("intermediate_size_mlp"),
        "plain_qk_norm": fields.flag("use_qk_norm", True),
        "query_growth": fields.number("attn_scale", 0.1) if tuned else 0.0,
        "query_growth_tokens": fields.integer("floor_scale", 8192),
        "local": LocalLayers(
            window=fields.integer("attention_chunk_size", 8192),
            pattern=pattern,
            chunked=True,
            others_have_rope=False,
        ),
        "experts": Experts(
            count=fields.integer("num_local_experts"),
            chosen=fields.integer("num_experts_per_tok"),
            width=fields.integer("intermediate_size"),
            scores="sigmoid",
            normalised=False,
            scales_input=True,
            shared_width=fields.integer("intermediate_size"),
            every=every,
        ),
    }


def _half(path: str, which: int) -> Part:
    """Half of the last axis, which is then out: [experts, in, 2 out] to ours."""

    def take(both: np.ndarray) -> np.ndarray:
        width = both.shape[2] // 2
        return both[..., which * width : (which + 1) * width].swapaxes(1, 2)

    return Part(path=path, take=take)


def _transposed(values: np.ndarray) -> np.ndarray:
    return values.swapaxes(1, 2)


def _names(config: DecoderConfig) -> tuple[Names, Names]:
    rows = halves(head_width=config.head_width, turning=config.head_width)
    inner: Names = ATTENTION | {
        "self_attn.q_proj.weight": Part(path="attention/q/kernel", take=rows, is_view=False),
        "self_attn.k_proj.weight": Part(path="attention/k/kernel", take=rows, is_view=False),
        "feed_forward.gate_proj.weight": "mlp/gate/kernel",
        "feed_forward.up_proj.weight": "mlp/up/kernel",
        "feed_forward.down_proj.weight": "mlp/down/kernel",
        "feed_forward.router.weight": "mlp/router/kernel",
        "feed_forward.shared_expert.gate_proj.weight": "mlp/shared/gate/kernel",
        "feed_forward.shared_expert.up_proj.weight": "mlp/shared/up/kernel",
        "feed_forward.shared_expert.down_proj.weight": "mlp/shared/down/kernel",
        "feed_forward.experts.gate_up_proj": (
            _half("mlp/experts/gate/kernel", 0),
            _half("mlp/experts/up/kernel", 1),
        ),
        "feed_forward.experts.down_proj": Part(path="mlp/experts/down/kernel", take=_transposed),
    }
    return OUTER, inner


LLAMA4 = Family(
    settings=_llama4,
    defaults={"rope_theta": 500_000.0, "head_dim": 128, "intermediate_size_mlp": 16_384},
    handles=frozenset({"layer_types"}),
    names=_names,
)
