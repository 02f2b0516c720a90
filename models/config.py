"""The numbers that make one decoder a Llama, a Qwen2 or a Qwen3.

One frozen record drives `models.decoder`; loaders fill it from a GGUF header or a config.json.
"""

import dataclasses

from models.errors import ModelError


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Llama 3's stretching of the rotary wavelengths (arXiv 2407.21783, and Meta's reference code).

    Wavelengths above `original_context / low_frequency_factor` are stretched by `factor`, those
    below `original_context / high_frequency_factor` are kept, and between the two it is blended.
    """

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_context: int

    def __post_init__(self) -> None:
        if not (self.factor >= 1 and 0 < self.low_frequency_factor < self.high_frequency_factor):
            raise ModelError(
                f"config: RoPE scaling must have factor >= 1 and 0 < low < high frequency factor, "
                f"not {self.factor}, {self.low_frequency_factor}, {self.high_frequency_factor}"
            )
        if self.original_context < 1:
            raise ModelError(
                f"config: RoPE scaling's original context must be at least 1, "
                f"not {self.original_context}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """A decoder of the Llama family: RMSNorm, RoPE, grouped-query attention, SwiGLU."""

    vocab_size: int
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    mlp_width: int
    max_context: int
    tied_embeddings: bool
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    norm_epsilon: float = 1e-5
    attention_bias: bool = False  # on q, k and v, as Qwen2 has it
    qk_norm: bool = False  # RMSNorm over each head's q and k, as Qwen3 has it

    def __post_init__(self) -> None:
        for field in (
            "vocab_size",
            "layers",
            "width",
            "heads",
            "kv_heads",
            "head_width",
            "mlp_width",
            "max_context",
        ):
            if getattr(self, field) < 1:
                raise ModelError(f"config: {field} must be at least 1, not {getattr(self, field)}")
        if self.heads % self.kv_heads:
            raise ModelError(
                f"config: heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})"
            )
        if self.head_width % 2:
            raise ModelError(f"config: head_width must be even for RoPE, not {self.head_width}")
        if not self.rope_theta > 0:
            raise ModelError(f"config: rope_theta must be positive, not {self.rope_theta}")
        if not self.norm_epsilon > 0:
            raise ModelError(f"config: norm_epsilon must be positive, not {self.norm_epsilon}")
