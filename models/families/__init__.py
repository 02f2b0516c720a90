"""The families of decoders that a Hugging Face folder may hold, by `model_type`."""

from models.families.family import Family
from models.families.gemma3 import GEMMA3
from models.families.llama import LLAMA, QWEN2, QWEN3
from models.families.mistral import MISTRAL
from models.families.starcoder2 import STARCODER2

FAMILIES: dict[str, Family] = {
    "llama": LLAMA,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "mistral": MISTRAL,
    "starcoder2": STARCODER2,
    "gemma3_text": GEMMA3,
}
