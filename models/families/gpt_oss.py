"""gpt-oss: attention sinks, a window in every other layer, biased experts with a clamped SwiGLU.

Its files hold each expert's gate and up in one kernel, row about, [in, out] (arXiv 2508.10925).
"""

from typing import Any

import numpy as np

from models.assembly import Names, Part
from models.config import DecoderConfig, LocalLayers
from models.errors import ModelError
from models.experts_config import Experts
from models.families.family import ATTENTION, OUTER, Family
from models.families.layer_types import local_pattern
from models.fields import Fields


def _gpt_oss(fields: Fields) -> dict[str, Any]:
    if fields.number("swiglu_limit", 7.0) != 7.0 or fields.number("swiglu_alpha", 1.702) != 1.702:
        raise ModelError(f"{fields.source}: only a swiglu_limit of 7 and alpha of 1.702 are known")
    bias = fields.flag("attention_bias", True)
    return {
        "attention_bias": bias,
        "output_bias": bias,
        "sinks": True,
        "activation": "clamped_swiglu",
        "local": LocalLayers(
            window=fields.integer("sliding_window"),
            pattern=local_pattern(fields, "sliding_attention", "full_attention", every=2),
        ),
        "experts": Experts(
            count=fields.integer("num_local_experts"),
            chosen=fields.integer("num_experts_per_tok"),
            width=fields.integer("intermediate_size"),
            bias=True,
        ),
    }


def _of_both(path: str, which: int) -> Part:
    """Every other of the last axis, which is then out: [experts, in, 2 out] to ours."""
    return Part(path=path, take=lambda both: both[..., which::2].swapaxes(1, 2))


def _of_both_biases(path: str, which: int) -> Part:
    return Part(path=path, take=lambda both: both[..., which::2])


def _transposed(values: np.ndarray) -> np.ndarray:
    return values.swapaxes(1, 2)


def _names(config: DecoderConfig) -> tuple[Names, Names]:
    inner: Names = ATTENTION | {
        "self_attn.sinks": "attention/sinks",
        "mlp.router.weight": "mlp/router/kernel",
        "mlp.router.bias": "mlp/router/bias",
        "mlp.experts.gate_up_proj": (
            _of_both("mlp/experts/gate/kernel", 0),
            _of_both("mlp/experts/up/kernel", 1),
        ),
        "mlp.experts.gate_up_proj_bias": (
            _of_both_biases("mlp/experts/gate/bias", 0),
            _of_both_biases("mlp/experts/up/bias", 1),
        ),
        "mlp.experts.down_proj": Part(path="mlp/experts/down/kernel", take=_transposed),
        "mlp.experts.down_proj_bias": "mlp/experts/down/bias",
    }
    return OUTER, inner


GPT_OSS = Family(
    settings=_gpt_oss,
    defaults={"rope_theta": 150_000.0, "head_dim": 64, "sliding_window": 128},
    handles=frozenset({"attention_bias", "layer_types"}),
    names=_names,
)
