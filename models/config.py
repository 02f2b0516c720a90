"""The numbers that make one decoder a Llama, a Gemma 3 or a StarCoder2.

One frozen record drives `models.decoder`; loaders fill it from a GGUF header or a config.json.
What only some families have stands at its end, with defaults that leave it out.
"""

import dataclasses
import functools

from models.activations import ACTIVATIONS, GATED_ONLY
from models.delta_config import DeltaRule
from models.errors import ModelError
from models.experts_config import Experts
from models.latent_config import Latent
from models.layer_kinds import LayerKind, Run, runs_of
from models.rope_config import Rope, RopeScaling, Scaling

__all__ = ["DecoderConfig", "LocalLayers", "RopeScaling"]

_SIZES = (
    "vocab_size",
    "layers",
    "width",
    "heads",
    "kv_heads",
    "head_width",
    "mlp_width",
    "max_context",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalLayers:
    """Layers that attend to the last tokens only, among ones that attend to all."""

    window: int  # tokens, the attending one included
    pattern: tuple[bool, ...] = (True,)  # which layers are local; repeated over all of them
    rope_theta: float | None = None  # theirs, unscaled, where it is not the others'
    chunked: bool = False  # the context is cut into chunks of `window`; no window slides
    others_have_rope: bool = True

    def __post_init__(self) -> None:
        if not self.pattern:
            raise ModelError("config: the pattern of local layers must not be empty")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """A decoder with RoPE; in each layer attention, grouped or latent, and an MLP or experts."""

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
    rope_scaling: Scaling | None = None
    norm_epsilon: float = 1e-5
    # Of hidden states and of products' operands: "float32", or "bfloat16" as accelerators do it.
    arithmetic: str = "float32"
    attention_bias: bool = False  # on q, k and v, as Qwen2 has it
    qk_norm: bool = False  # RMSNorm over each head's q and k, as Qwen3 has it
    qk_norm_over_heads: bool = False  # over all heads at once, as MiniMax-M2 has it
    plain_qk_norm: bool = False  # over each head that turns, unscaled, as Llama 4 has it
    output_bias: bool = False  # on attention's o, as StarCoder2 has it
    mlp_bias: bool = False
    layer_norm: bool = False  # LayerNorm instead of RMSNorm
    norm_bias: bool = True  # LayerNorm's
    parallel: bool = False  # attention and MLP read the same hidden state, as PaLM's do
    parallel_norms: bool = False  # each through a norm of its own, as Falcon-40B's do
    output_norms: bool = False  # attention and MLP are normalised behind too, as Gemma 3's are
    activation: str = "silu"
    gated: bool = True  # the MLP multiplies activation(gate) with up; otherwise activation(up)
    embedding_factor: float = 1.0  # on what the embedding gives, not on the head that it is tied to
    query_factor: float = 1.0  # on q, beyond the usual 1 / sqrt(head_width)
    query_growth: float = 0.0  # without RoPE, q × (1 + growth × log(1 + ⌊(position + 1) / tokens⌋))
    query_growth_tokens: int = 8192
    rope_width: int | None = None  # channels of a head that turn; None: all
    output_gate: bool = False  # what attention gives is gated by a sigmoid, as Qwen3.5 has it
    sinks: bool = False  # a learnt logit for each head, which takes its share of attention
    local: LocalLayers | None = None
    experts: Experts | None = None
    latent: Latent | None = None
    delta: DeltaRule | None = None

    def __post_init__(self) -> None:
        for field in _SIZES:
            if getattr(self, field) < 1:
                raise ModelError(f"config: {field} must be at least 1, not {getattr(self, field)}")
        if self.heads % self.kv_heads:
            raise ModelError(
                f"config: heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})"
            )
        if self.head_width % 2:
            raise ModelError(f"config: head_width must be even for RoPE, not {self.head_width}")
        if not self.norm_epsilon > 0:
            raise ModelError(f"config: norm_epsilon must be positive, not {self.norm_epsilon}")
        if self.arithmetic not in ("float32", "bfloat16"):
            raise ModelError(
                f"config: arithmetic must be float32 or bfloat16, not {self.arithmetic!r}"
            )
        known = [*ACTIVATIONS, *(GATED_ONLY if self.gated else ())]
        if self.activation not in known:
            raise ModelError(
                f"config: activation must be one of {', '.join(known)}, not {self.activation!r}"
            )
        if self.rope_width is not None and self.rope_width > self.head_width:
            raise ModelError(
                f"config: rope_width ({self.rope_width}) is more than head_width "
                f"({self.head_width})"
            )
        if self.latent is not None and self.latent.rope_width >= self.head_width:
            raise ModelError(
                f"config: latent attention turns {self.latent.rope_width} of {self.head_width} "
                f"channels; some must not turn"
            )
        if self.delta is not None and self.latent is not None:
            raise ModelError("config: layers with the delta rule beside latent attention")
        if self.query_growth_tokens < 1:
            raise ModelError(
                f"config: query_growth_tokens must be at least 1, not {self.query_growth_tokens}"
            )
        self.kind(0)  # checks the rotation and the window

    @property
    def rope(self) -> Rope:
        """The rotation of the layers that attend to all tokens."""
        width = self.head_width if self.rope_width is None else self.rope_width
        if self.latent is not None:
            width = self.latent.rope_width
        return Rope(width=width, theta=self.rope_theta, scaling=self.rope_scaling)

    def kind(self, layer: int) -> LayerKind:
        """What layer number `layer` is."""
        local, rope = self.local, self.rope
        routed = self.experts is not None and self.experts.routes(layer)
        if self.delta is not None and self.delta.recurs(layer):
            return LayerKind(rope=None, routed=routed, recurrent=True)
        if local is None:
            return LayerKind(rope=rope, routed=routed)
        if not local.pattern[layer % len(local.pattern)]:
            return LayerKind(rope=rope if local.others_have_rope else None, routed=routed)
        if local.rope_theta is not None:
            rope = Rope(width=rope.width, theta=local.rope_theta)
        return LayerKind(rope=rope, window=local.window, chunked=local.chunked, routed=routed)

    @property
    def kinds(self) -> tuple[LayerKind, ...]:
        """What each layer is."""
        return tuple(self.kind(layer) for layer in range(self.layers))

    @property
    def runs(self) -> tuple[Run, ...]:
        """The layers in runs that a scan can go over."""
        return _runs(self)


@functools.cache
def _runs(config: DecoderConfig) -> tuple[Run, ...]:
    return runs_of(config.kinds)
