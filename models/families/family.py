"""What a loader must know of a family: its config.json's meaning and its tensors' names."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from models.assembly import Names
from models.config import DecoderConfig
from models.fields import Fields

OUTER: dict[str, str] = {
    "model.embed_tokens.weight": "embedding/weight",
    "model.norm.weight": "norm/scale",
    "lm_head.weight": "head/kernel",
}
ATTENTION: dict[str, str] = {
    "input_layernorm.weight": "attention_norm/scale",
    "self_attn.q_proj.weight": "attention/q/kernel",
    "self_attn.k_proj.weight": "attention/k/kernel",
    "self_attn.v_proj.weight": "attention/v/kernel",
    "self_attn.q_proj.bias": "attention/q/bias",
    "self_attn.k_proj.bias": "attention/k/bias",
    "self_attn.v_proj.bias": "attention/v/bias",
    "self_attn.q_norm.weight": "attention/q_norm/scale",
    "self_attn.k_norm.weight": "attention/k_norm/scale",
    "self_attn.o_proj.weight": "attention/o/kernel",
    "self_attn.o_proj.bias": "attention/o/bias",
    "post_attention_layernorm.weight": "mlp_norm/scale",
}
MLP: dict[str, str] = {
    "mlp.gate_proj.weight": "mlp/gate/kernel",
    "mlp.up_proj.weight": "mlp/up/kernel",
    "mlp.down_proj.weight": "mlp/down/kernel",
}


def plain_names(config: DecoderConfig) -> tuple[Names, Names]:
    """The names of Llama's tensors, which most families share: outside and inside of a layer."""
    return OUTER, ATTENTION | MLP


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """One `model_type`."""

    settings: Callable[[Fields], dict[str, Any]]
    """DecoderConfig's fields beyond those that are read the same way for all families."""
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """transformers' defaults, for keys that a config.json may leave out."""
    handles: frozenset[str] = frozenset()
    """Features that `settings` sees to; they are refused otherwise."""
    names: Callable[[DecoderConfig], tuple[Names, Names]] = plain_names
