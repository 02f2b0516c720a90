"""The families of decoders that a Hugging Face folder may hold, by `model_type`."""

from models.families.deepseek import DEEPSEEK_V2, DEEPSEEK_V3
from models.families.falcon import FALCON
from models.families.family import Family
from models.families.gemma3 import GEMMA3
from models.families.glm4_moe import GLM4_MOE
from models.families.gpt_oss import GPT_OSS
from models.families.llama import LLAMA, QWEN2, QWEN3
from models.families.llama4 import LLAMA4
from models.families.mistral import MISTRAL
from models.families.mixtral import MINIMAX_M2, MIXTRAL, QWEN3_MOE
from models.families.qwen3_5 import QWEN3_5_MOE
from models.families.sparse_latent import DEEPSEEK_V32, GLM_MOE_DSA
from models.families.starcoder2 import STARCODER2

FAMILIES: dict[str, Family] = {
    "llama": LLAMA,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "mistral": MISTRAL,
    "starcoder2": STARCODER2,
    "falcon": FALCON,
    "gemma3_text": GEMMA3,
    "mixtral": MIXTRAL,
    "qwen3_moe": QWEN3_MOE,
    "qwen3_5_moe_text": QWEN3_5_MOE,
    "gpt_oss": GPT_OSS,
    "llama4_text": LLAMA4,
    "glm4_moe": GLM4_MOE,
    "minimax_m2": MINIMAX_M2,
    "deepseek_v2": DEEPSEEK_V2,
    "deepseek_v3": DEEPSEEK_V3,
    "kimi_k2": DEEPSEEK_V3,
    "deepseek_v32": DEEPSEEK_V32,
    "glm_moe_dsa": GLM_MOE_DSA,
}
