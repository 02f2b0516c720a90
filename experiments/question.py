"""What a prediction is asked for: a model and its formats, chips, and what they serve.

A `Question` is checked when it is made, as far as that takes no model and no chip. Degrees and
chips that are left out (None) are found by `experiments.usual_split`.
"""

import dataclasses
import math

from emu.chips import Chip
from emu.stacks import Stack
from experiments.errors import ExperimentError

_COUNTS = ("chips", "tensor", "pipeline", "expert", "data", "batch")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """See the module; the units are counts of chips, sequences and tokens."""

    model: str  # of models.zoo
    chip: str | Chip  # of the catalogue, `host`, or a TOML file's path
    weights: str = "bf16"  # as `experiments.stored_as` has them
    kv: str = "bf16"
    stack: str | Stack = "ideal"
    chips: int | None = None
    tensor: int | None = None
    pipeline: int | None = None
    expert: int | None = None
    data: int = 1
    batch: int = 1  # sequences, over all replicas
    context: int = 2000  # tokens of each in the cache
    tokens_per_step: float = 1.0  # that a step yields on average; above 1 for speculation
    draft_tokens: int | None = None  # that a step verifies beside the one it must compute
    draft_model: str | None = None  # which proposes them, on the same chips; None: that is free
    draft_weights: str | None = None  # None: as the model's
    placement: str | None = None  # as `experiments.placing` reads it; None: as is usual
    prompt: int | None = None  # tokens to prefill before the first one comes
    prefix: int = 0  # tokens before the prompt that are in the cache already

    def __post_init__(self) -> None:
        for name in _COUNTS:
            count = getattr(self, name)
            if count is not None and count < 1:
                raise ExperimentError(f"--{name} must be at least 1, not {count}")
        for name in ("context", "prefix"):
            if getattr(self, name) < 0:
                raise ExperimentError(f"--{name} must not be negative: {getattr(self, name)}")
        if self.batch % self.data:
            raise ExperimentError(
                f"--batch={self.batch} does not divide among --data={self.data} replicas; take a "
                f"multiple of {self.data}"
            )
        if self.prompt is not None and self.prompt < 1:
            raise ExperimentError(f"--prompt must be at least 1 token, not {self.prompt}")
        if self.prefix and self.prompt is None:
            raise ExperimentError("--prefix is what stands before a prompt: give --prompt too")
        self._check_speculation()

    def _check_speculation(self) -> None:
        a, k = self.tokens_per_step, self.draft_tokens
        if not math.isfinite(a) or a < 1:
            raise ExperimentError(
                f"--tokens_per_step must be at least 1, not {a}: a step yields a token at least"
            )
        if k is not None and k < 0:
            raise ExperimentError(f"--draft_tokens must not be negative: {k}")
        if k is not None and a > k + 1:
            raise ExperimentError(
                f"--tokens_per_step={a:g} is more than the {k + 1} that --draft_tokens={k} can "
                "yield (its own and one more)"
            )
        if self.draft_model is not None and self.drafted == 0:
            raise ExperimentError(
                "--draft_model has nothing to draft: give --draft_tokens or --tokens_per_step > 1"
            )
        if self.draft_weights is not None and self.draft_model is None:
            raise ExperimentError("--draft_weights needs --draft_model")

    @property
    def drafted(self) -> int:
        """Tokens drafted a step; where that is not said, the fewest that can yield the mean."""
        if self.draft_tokens is not None:
            return self.draft_tokens
        return math.ceil(self.tokens_per_step) - 1
