"""StarCoder2: LayerNorm, biases everywhere, a plain GELU MLP, a window (arXiv 2402.19173)."""

from typing import Any

from models.assembly import Names
from models.config import DecoderConfig, LocalLayers
from models.families.family import ATTENTION, OUTER, Family
from models.fields import Fields


def _starcoder2(fields: Fields) -> dict[str, Any]:
    bias = fields.flag("use_bias", True)
    settings: dict[str, Any] = {
        "attention_bias": bias,
        "output_bias": bias,
        "mlp_bias": bias,
        "layer_norm": True,
        "gated": False,
        "activation": "gelu",
        "norm_epsilon": fields.number("norm_epsilon", 1e-5),
    }
    if fields.has("sliding_window"):
        settings["local"] = LocalLayers(window=fields.integer("sliding_window"))
    return settings


def _names(config: DecoderConfig) -> tuple[Names, Names]:
    return OUTER | {"model.norm.bias": "norm/bias"}, ATTENTION | {
        "input_layernorm.bias": "attention_norm/bias",
        "post_attention_layernorm.bias": "mlp_norm/bias",
        "mlp.c_fc.weight": "mlp/up/kernel",
        "mlp.c_fc.bias": "mlp/up/bias",
        "mlp.c_proj.weight": "mlp/down/kernel",
        "mlp.c_proj.bias": "mlp/down/bias",
    }


STARCODER2 = Family(
    settings=_starcoder2,
    defaults={"hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": True},
    handles=frozenset({"hidden_act", "sliding_window"}),
    names=_names,
)
