"""Mistral: a Llama whose every layer may have a sliding window (arXiv 2310.06825)."""

from typing import Any

from models.config import LocalLayers
from models.families.family import Family
from models.fields import Fields


def _mistral(fields: Fields) -> dict[str, Any]:
    if not fields.has("sliding_window"):
        return {}
    return {"local": LocalLayers(window=fields.integer("sliding_window"))}


# transformers' default window is 4096 where the key is absent; null is none.
MISTRAL = Family(
    settings=_mistral, defaults={"sliding_window": 4096}, handles=frozenset({"sliding_window"})
)
