"""Falcon (arXiv 2311.16867): attention beside the MLP, LayerNorm, a GELU MLP without a gate.

Falcon-7B has one head of keys and values; the "new decoder architecture" of 40B has several, and a
norm for the MLP beside attention's. The files hold q, k and v fused: for each head of keys, the
heads of queries that share it, then its key, then its value.
"""

import functools
from typing import Any

import numpy as np

from models.assembly import Names, Part
from models.config import DecoderConfig
from models.errors import ModelError
from models.families.family import Family
from models.fields import Fields


def _falcon(fields: Fields) -> dict[str, Any]:
    if fields.flag("alibi", False):
        raise ModelError(f"{fields.source}: alibi is true, which is not supported")
    activation = fields.text("activation", "gelu")
    if activation != "gelu":
        raise ModelError(f"{fields.source}: activation {activation!r} is not supported, 'gelu' is")
    new, heads = fields.flag("new_decoder_architecture"), fields.integer("num_attention_heads")
    if not new and not fields.flag("parallel_attn", True):
        raise ModelError(f"{fields.source}: parallel_attn false is not supported")
    kv_heads = fields.integer("num_kv_heads", heads)
    if not new:
        kv_heads = 1 if fields.flag("multi_query", True) else heads
    bias = fields.flag("bias", False)
    return {
        "kv_heads": kv_heads,
        "mlp_width": fields.integer("ffn_hidden_size", 4 * fields.integer("hidden_size")),
        "attention_bias": bias,
        "output_bias": bias,
        "mlp_bias": bias,
        "layer_norm": True,
        "norm_epsilon": fields.number("layer_norm_epsilon", 1e-5),
        "parallel": True,
        "parallel_norms": new and fields.integer("num_ln_in_parallel_attn", 2) == 2,
        "gated": False,
        "activation": "exact_gelu",
    }


def _rows(which: slice, config: DecoderConfig, fused: np.ndarray) -> np.ndarray:
    """Of the fused [heads and keys and values × head_width, ...], one of the three."""
    outer, width = fused.shape[1:], config.head_width
    shared = fused.reshape(config.kv_heads, config.heads // config.kv_heads + 2, width, *outer)
    return shared[:, which].reshape(-1, *outer)


def _names(config: DecoderConfig) -> tuple[Names, Names]:
    three = {"q": slice(-2), "k": slice(-2, -1), "v": slice(-1, None)}

    def parts(leaf: str) -> tuple[Part, ...]:
        return tuple(
            Part(path=f"attention/{name}/{leaf}", take=functools.partial(_rows, which, config))
            for name, which in three.items()
        )

    inner: dict[str, str | tuple[Part, ...]] = {}
    for theirs, leaf in (("weight", "kernel"), ("bias", "bias")):
        inner |= {
            f"self_attention.query_key_value.{theirs}": parts(leaf),
            f"self_attention.dense.{theirs}": f"attention/o/{leaf}",
            f"mlp.dense_h_to_4h.{theirs}": f"mlp/up/{leaf}",
            f"mlp.dense_4h_to_h.{theirs}": f"mlp/down/{leaf}",
        }
    for theirs, leaf in (("weight", "scale"), ("bias", "bias")):
        inner |= {
            f"input_layernorm.{theirs}": f"norm/{leaf}",
            f"ln_attn.{theirs}": f"norm/{leaf}",
            f"ln_mlp.{theirs}": f"mlp_norm/{leaf}",
        }
    return {
        "transformer.word_embeddings.weight": "embedding/weight",
        "transformer.ln_f.weight": "norm/scale",
        "transformer.ln_f.bias": "norm/bias",
        "lm_head.weight": "head/kernel",
    }, inner


FALCON = Family(
    settings=_falcon,
    defaults={
        "intermediate_size": 1,  # it is called ffn_hidden_size, and may be left out
        "max_position_embeddings": 2048,
        "new_decoder_architecture": False,
        "tie_word_embeddings": True,
    },
    names=_names,
)
