"""The numbers of layers that keep a state of fixed size by the gated delta rule."""

import dataclasses

from models.errors import ModelError


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeltaRule:
    """Heads of keys, each with `value_heads / key_heads` heads of values, and a short convolution.

    A layer's state is a matrix [key_width, value_width] for each head of values.
    """

    key_heads: int
    value_heads: int
    key_width: int
    value_width: int
    taps: int  # tokens that the convolution over q, k and v sees, the newest included
    pattern: tuple[bool, ...] = (True,)  # which layers are such; repeated over all of them

    def __post_init__(self) -> None:
        for field in ("key_heads", "value_heads", "key_width", "value_width"):
            if getattr(self, field) < 1:
                raise ModelError(
                    f"config: the delta rule's {field} must be at least 1, "
                    f"not {getattr(self, field)}"
                )
        if self.taps < 2:
            raise ModelError(f"config: a convolution over tokens needs 2 taps, not {self.taps}")
        if self.value_heads % self.key_heads:
            raise ModelError(
                f"config: the delta rule's value_heads ({self.value_heads}) must be a multiple of "
                f"its key_heads ({self.key_heads})"
            )
        if not self.pattern:
            raise ModelError("config: the pattern of layers with the delta rule must not be empty")

    def recurs(self, layer: int) -> bool:
        """Whether layer number `layer` is such."""
        return self.pattern[layer % len(self.pattern)]
