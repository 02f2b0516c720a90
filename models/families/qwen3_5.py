"""Qwen3.5's mixtures: three layers of gated delta networks for each of gated attention.

Norm scales are stored less one, but for the one inside a delta network; a query's head and its
gate lie one behind the other, and so do q, k and v of a delta network.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from models.assembly import Names, Part
from models.config import DecoderConfig
from models.delta_config import DeltaRule
from models.experts_config import Experts
from models.families.family import ATTENTION, OUTER, Family
from models.families.layer_types import local_pattern
from models.families.norm_scales import less_one
from models.fields import Fields


def _qwen3_5_moe(fields: Fields) -> dict[str, Any]:
    rope = fields.record("rope_parameters")
    share = rope.number("partial_rotary_factor", fields.number("partial_rotary_factor", 0.25))
    every = fields.integer("full_attention_interval", 4)
    return {
        "mlp_width": fields.integer("moe_intermediate_size"),  # no layer has a dense MLP
        "rope_width": int(fields.integer("head_dim") * share),
        "qk_norm": True,
        "output_gate": True,
        "delta": DeltaRule(
            key_heads=fields.integer("linear_num_key_heads"),
            value_heads=fields.integer("linear_num_value_heads"),
            key_width=fields.integer("linear_key_head_dim"),
            value_width=fields.integer("linear_value_head_dim"),
            taps=fields.integer("linear_conv_kernel_dim"),
            pattern=local_pattern(fields, "linear_attention", "full_attention", every=every),
        ),
        "experts": Experts(
            count=fields.integer("num_experts"),
            chosen=fields.integer("num_experts_per_tok"),
            width=fields.integer("moe_intermediate_size"),
            shared_width=fields.integer("shared_expert_intermediate_size"),
            shared_gate=True,
        ),
    }


def _every_other_head(which: int, width: int, fused: np.ndarray) -> np.ndarray:
    """Of heads of `width` rows in pairs, the first or the second of each pair."""
    pairs = fused.reshape(-1, 2, width, fused.shape[-1])
    return pairs[:, which].reshape(-1, fused.shape[-1])


def _rows(start: int, stop: int, fused: np.ndarray) -> np.ndarray:
    return fused[start:stop]


def _channels(start: int, stop: int, fused: np.ndarray) -> np.ndarray:
    """Of a convolution's [channels, 1, taps]."""
    return fused[start:stop, 0]


def _half_of_experts(which: int, fused: np.ndarray) -> np.ndarray:
    """Of [experts, gate and up, width]."""
    half = fused.shape[1] // 2
    return fused[:, which * half : (which + 1) * half]


def _cut(
    paths: tuple[str, str, str], rule: DeltaRule, take: Callable[..., np.ndarray]
) -> tuple[Part, ...]:
    """The parts of q, k and v in what holds the three."""
    keys, values = rule.key_heads * rule.key_width, rule.value_heads * rule.value_width
    edges = (0, keys, 2 * keys, 2 * keys + values)
    return tuple(
        Part(path=path, take=functools.partial(take, start, stop))
        for path, start, stop in zip(paths, edges, edges[1:], strict=False)
    )


def _names(config: DecoderConfig) -> tuple[Names, Names]:
    assert config.delta is not None
    inside = "attention/"
    q_and_gate = tuple(
        Part(path=path, take=functools.partial(_every_other_head, which, config.head_width))
        for which, path in enumerate(("attention/q/kernel", "attention/gate/kernel"))
    )
    kernels = (inside + "q/kernel", inside + "k/kernel", inside + "v/kernel")
    taps = (inside + "q_taps", inside + "k_taps", inside + "v_taps")
    gate_and_up = tuple(
        Part(path=f"mlp/experts/{name}/kernel", take=functools.partial(_half_of_experts, which))
        for which, name in enumerate(("gate", "up"))
    )
    inner: Names = ATTENTION | {
        "input_layernorm.weight": less_one("attention_norm/scale"),
        "post_attention_layernorm.weight": less_one("mlp_norm/scale"),
        "self_attn.q_norm.weight": less_one("attention/q_norm/scale"),
        "self_attn.k_norm.weight": less_one("attention/k_norm/scale"),
        "self_attn.q_proj.weight": q_and_gate,
        "linear_attn.in_proj_qkv.weight": _cut(kernels, config.delta, _rows),
        "linear_attn.conv1d.weight": _cut(taps, config.delta, _channels),
        "linear_attn.in_proj_z.weight": "attention/gate/kernel",
        "linear_attn.in_proj_a.weight": "attention/decay/kernel",
        "linear_attn.in_proj_b.weight": "attention/share/kernel",
        "linear_attn.A_log": "attention/log_rate",
        "linear_attn.dt_bias": "attention/decay_bias",
        "linear_attn.norm.weight": "attention/norm/scale",
        "linear_attn.out_proj.weight": "attention/o/kernel",
        "mlp.gate.weight": "mlp/router/kernel",
        "mlp.experts.gate_up_proj": gate_and_up,
        "mlp.experts.down_proj": "mlp/experts/down/kernel",
        "mlp.experts.*.gate_proj.weight": "mlp/experts/gate/kernel",
        "mlp.experts.*.up_proj.weight": "mlp/experts/up/kernel",
        "mlp.experts.*.down_proj.weight": "mlp/experts/down/kernel",
        "mlp.shared_expert.gate_proj.weight": "mlp/shared/gate/kernel",
        "mlp.shared_expert.up_proj.weight": "mlp/shared/up/kernel",
        "mlp.shared_expert.down_proj.weight": "mlp/shared/down/kernel",
        "mlp.shared_expert_gate.weight": "mlp/shared_gate/kernel",
    }
    return OUTER | {"model.norm.weight": less_one("norm/scale")}, inner


QWEN3_5_MOE = Family(
    settings=_qwen3_5_moe,
    defaults={"intermediate_size": 1, "head_dim": 256},
    handles=frozenset({"partial_rotary_factor", "layer_types"}),
    names=_names,
)
