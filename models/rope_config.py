"""Which rotary angles a layer turns its heads by: base, share of the head, and stretching.

A stretched RoPE reaches further than the model was first trained for. Three rules are in use:
Llama 3's blend between kept and stretched wavelengths, YaRN's, and one factor for all.
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
        if not (self.factor >= 1 and 0 < self.low_frequency_factor <= self.high_frequency_factor):
            raise ModelError(
                f"config: RoPE scaling must have factor >= 1 and 0 < low <= high frequency factor, "
                f"not {self.factor}, {self.low_frequency_factor}, {self.high_frequency_factor}"
            )
        _check_context(self.original_context)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Yarn:
    """YaRN (arXiv 2309.00071): channels that turn often are kept, those that turn rarely stretched.

    A channel that makes `fast_turns` or more in the original context is kept, one that makes
    `slow_turns` or fewer is stretched by `factor`; between them it is blended by channel number.
    Cosine and sine are multiplied by `magnitude`.
    """

    factor: float
    original_context: int
    fast_turns: float = 32.0
    slow_turns: float = 1.0
    magnitude: float = 1.0
    whole_channels: bool = True  # round the two bounds outwards to whole channels

    def __post_init__(self) -> None:
        if not (self.factor >= 1 and 0 < self.slow_turns <= self.fast_turns and self.magnitude > 0):
            raise ModelError(
                f"config: YaRN must have factor >= 1, 0 < slow <= fast turns and a positive "
                f"magnitude, not {self.factor}, {self.slow_turns}, {self.fast_turns}, "
                f"{self.magnitude}"
            )
        _check_context(self.original_context)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stretch:
    """Every wavelength stretched by the same factor (arXiv 2306.15595)."""

    factor: float

    def __post_init__(self) -> None:
        if not self.factor >= 1:
            raise ModelError(f"config: RoPE scaling must have factor >= 1, not {self.factor}")


Scaling = RopeScaling | Yarn | Stretch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rope:
    """The rotation of one kind of layer."""

    width: int  # channels of a head that turn: the first so many
    theta: float = 10_000.0
    scaling: Scaling | None = None

    def __post_init__(self) -> None:
        if self.width < 2 or self.width % 2:
            raise ModelError(f"config: RoPE must turn an even number of channels, not {self.width}")
        if not self.theta > 0:
            raise ModelError(f"config: rope_theta must be positive, not {self.theta}")


def _check_context(original_context: int) -> None:
    if original_context < 1:
        raise ModelError(
            f"config: RoPE scaling's original context must be at least 1, not {original_context}"
        )
