"""Llama 2 and 3, Qwen2, Qwen3: RMSNorm, grouped-query attention, SwiGLU.

Qwen2 (and 2.5) has biases on q, k and v; Qwen3 normalises each head's q and k.
"""

from typing import Any

from models.families.family import Family
from models.fields import Fields


def _llama(fields: Fields) -> dict[str, Any]:
    return {}


def _qwen2(fields: Fields) -> dict[str, Any]:
    return {"attention_bias": True}


def _qwen3(fields: Fields) -> dict[str, Any]:
    return {"qk_norm": True}


LLAMA = Family(settings=_llama)
QWEN2 = Family(settings=_qwen2)
QWEN3 = Family(settings=_qwen3, defaults={"head_dim": 128})
