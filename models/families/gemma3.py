"""Gemma 3: norms on both sides, GELU-gated MLP, five local layers for each global one.

Its norm scales are stored less one, and one is added when they are read; its embedding is scaled
by the root of the width, its queries by a scalar of the config instead of the head width
(arXiv 2503.19786).
"""

import math
from typing import Any

from models.assembly import Names
from models.config import DecoderConfig, LocalLayers
from models.errors import ModelError
from models.families.family import MLP, OUTER, Family
from models.families.layer_types import local_pattern
from models.families.norm_scales import less_one
from models.fields import Fields
from models.rope_config import Stretch

_ACTIVATION = "gelu_pytorch_tanh"
_LOCAL, _GLOBAL = "sliding_attention", "full_attention"


def _gemma3(fields: Fields) -> dict[str, Any]:
    activation = fields.text("hidden_activation", _ACTIVATION)
    if activation != _ACTIVATION:
        raise ModelError(
            f"{fields.source}: hidden_activation {activation!r} is not supported, "
            f"{_ACTIVATION!r} is"
        )
    for feature in ("final_logit_softcapping", "attn_logit_softcapping"):
        if fields.has(feature):
            raise ModelError(f"{fields.source}: {feature} is not supported")
    if fields.flag("use_bidirectional_attention", False):
        raise ModelError(f"{fields.source}: use_bidirectional_attention is not supported")
    rope_theta, rope_scaling, local_theta = _rotations(fields)
    scalar = fields.number("query_pre_attn_scalar", 256)
    if not scalar > 0:
        raise ModelError(f"{fields.source}: query_pre_attn_scalar must be positive, not {scalar}")
    return {
        "rope_theta": rope_theta,
        "rope_scaling": rope_scaling,
        "activation": "gelu",
        "qk_norm": True,
        "output_norms": True,
        "embedding_factor": math.sqrt(fields.integer("hidden_size")),
        "query_factor": math.sqrt(fields.integer("head_dim") / scalar),
        "local": LocalLayers(
            window=fields.integer("sliding_window"),
            pattern=local_pattern(fields, _LOCAL, _GLOBAL, every=_every(fields)),
            rope_theta=local_theta,
        ),
    }


def _every(fields: Fields) -> int:
    """One layer in so many is global."""
    return fields.integer("sliding_window_pattern", fields.integer("_sliding_window_pattern", 6))


def _rotations(fields: Fields) -> tuple[float, Stretch | None, float]:
    """The base and stretching of the global layers, and the base of the local ones."""
    both = fields.record("rope_parameters")
    if both.has(_GLOBAL):  # as transformers 5 writes it
        whole = both.record(_GLOBAL)
        theta = whole.number("rope_theta", 1_000_000.0)
        local_theta = both.record(_LOCAL).number("rope_theta", 10_000.0)
    else:
        whole = fields.record("rope_scaling")
        theta = fields.number("rope_theta", 1_000_000.0)
        local_theta = fields.number("rope_local_base_freq", 10_000.0)
    kind = whole.text("rope_type", "default")
    if kind == "default":
        return theta, None, local_theta
    if kind != "linear":
        raise ModelError(f"{whole.source}: RoPE scaling {kind!r} is not supported, 'linear' is")
    return theta, Stretch(factor=whole.number("factor")), local_theta


def _names(config: DecoderConfig) -> tuple[Names, Names]:
    inner: Names = MLP | {
        "self_attn.q_proj.weight": "attention/q/kernel",
        "self_attn.k_proj.weight": "attention/k/kernel",
        "self_attn.v_proj.weight": "attention/v/kernel",
        "self_attn.o_proj.weight": "attention/o/kernel",
        "self_attn.q_norm.weight": less_one("attention/q_norm/scale"),
        "self_attn.k_norm.weight": less_one("attention/k_norm/scale"),
        "input_layernorm.weight": less_one("attention_norm/scale"),
        "post_attention_layernorm.weight": less_one("attention_output_norm/scale"),
        "pre_feedforward_layernorm.weight": less_one("mlp_norm/scale"),
        "post_feedforward_layernorm.weight": less_one("mlp_output_norm/scale"),
    }
    return OUTER | {"model.norm.weight": less_one("norm/scale")}, inner


GEMMA3 = Family(
    settings=_gemma3,
    defaults={
        "vocab_size": 262_208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131_072,
        "sliding_window": 4096,
        "tie_word_embeddings": True,
    },
    handles=frozenset({"layer_types", "rope"}),
    names=_names,
)
