"""DeepSeek-V3.2 and GLM-5: DeepSeek-V3, with an indexer that chooses what attention reads.

The two differ in the order of the indexer's rotary channels: in halves in DeepSeek-V3.2's files
(whose other rotary channels lie in pairs), in pairs in GLM-5's. GLM-5.2's layers that take over
the choice of an earlier layer are not supported.
"""

import dataclasses
from typing import Any

from models.assembly import Names, Part
from models.config import DecoderConfig
from models.errors import ModelError
from models.families.deepseek import DEEPSEEK_V3, latent_attention, latent_names
from models.families.family import Family
from models.families.glm4_moe import corrected_experts
from models.families.rotary_pairs import halves
from models.fields import Fields
from models.latent_config import Indexer

_PREFIX = "attention/indexer/"


def _deepseek_v32(fields: Fields) -> dict[str, Any]:
    _refuse_other_layers(fields)
    attention = latent_attention(fields)
    indexer = Indexer(
        heads=fields.integer("index_n_heads"),
        width=fields.integer("index_head_dim"),
        chosen=fields.integer("index_topk"),
    )
    latent = dataclasses.replace(attention["latent"], indexer=indexer)
    return {**attention, "latent": latent, "experts": corrected_experts(fields)}


def _glm_moe_dsa(fields: Fields) -> dict[str, Any]:
    if not fields.flag("indexer_rope_interleave", True):
        raise ModelError(f"{fields.source}: indexer_rope_interleave false is not supported")
    return _deepseek_v32(fields)


def _refuse_other_layers(fields: Fields) -> None:
    """transformers writes what each layer is; here all choose, and the first few are dense."""
    layers, dense = fields.integer("num_hidden_layers"), fields.integer("first_k_dense_replace")
    usual = {
        "layer_types": ["indexed_attention"] * layers,
        "indexer_types": ["full"] * layers,
        "mlp_layer_types": ["dense" if n < dense else "sparse" for n in range(layers)],
    }
    for key, expected in usual.items():
        for n, kind in enumerate(fields.texts(key) if fields.has(key) else ()):
            if kind not in expected[n : n + 1]:
                raise ModelError(
                    f"{fields.source}: {key} has {kind!r} for layer {n}, which is not supported"
                )
    if fields.integer("index_topk_freq", 1) != 1 or fields.has("index_topk_pattern"):
        raise ModelError(
            f"{fields.source}: layers that share an indexer's choice are not supported"
        )


def _deepseek_names(config: DecoderConfig) -> tuple[Names, Names]:
    outer, inner = latent_names(config)
    return outer, {
        **inner,
        "self_attn.indexer.wq_b.weight": _PREFIX + "q/kernel",
        "self_attn.indexer.wk.weight": _PREFIX + "k/kernel",
        "self_attn.indexer.k_norm.weight": _PREFIX + "k_norm/scale",
        "self_attn.indexer.k_norm.bias": _PREFIX + "k_norm/bias",
        "self_attn.indexer.weights_proj.weight": _PREFIX + "head_weights/kernel",
    }


def _glm_names(config: DecoderConfig) -> tuple[Names, Names]:
    """A key's channels are put in order before its norm, so the norm's are too."""
    latent = config.latent
    assert latent is not None
    assert latent.indexer is not None
    take = halves(head_width=latent.indexer.width, turning=latent.rope_width, first=True)
    outer, inner = _deepseek_names(config)
    turned = {
        name: Part(path=path, take=take, is_view=False)
        for name, path in inner.items()
        if isinstance(path, str) and path.startswith(_PREFIX) and "head_weights" not in path
    }
    return outer, {**inner, **turned}


DEEPSEEK_V32 = Family(
    settings=_deepseek_v32,
    defaults={
        **DEEPSEEK_V3.defaults,
        "index_n_heads": 64,
        "index_head_dim": 128,
        "index_topk": 2048,
    },
    handles=frozenset({"layer_types"}),
    names=_deepseek_names,
)
GLM_MOE_DSA = Family(
    settings=_glm_moe_dsa,
    defaults={**DEEPSEEK_V32.defaults, "index_n_heads": 32, "n_group": 1, "topk_group": 1},
    handles=frozenset({"layer_types"}),
    names=_glm_names,
)
