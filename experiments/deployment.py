"""A model on chips as somebody would serve it: what a table of step times is asked for.

A `Deployment` is checked when it is made; what it leaves at 0 is found as `experiments.predict`
finds it (`experiments.usual_split`), for as many sequences as it has to hold.
"""

import dataclasses
from collections.abc import Mapping

import emu
from experiments.errors import ExperimentError
from experiments.question import Question
from experiments.steps_traced import check_context


@dataclasses.dataclass(frozen=True, kw_only=True)
class Served:
    """A model and how it is stored, in the words of `experiments.stored_as`."""

    model: str  # of models.zoo
    weights: str = "fp8"
    kv: str = "fp8"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hardware:
    """Chips and software, and what they cost; 0 and "" where it is left to be found."""

    chip: str
    stack: str
    chips: int = 0  # the fewest that hold the weights and `sequences` whole contexts
    tensor: int = 0
    pipeline: int = 0
    expert: int = 0
    sequences: int = 1  # of the whole window, which a number of chips that is found must hold
    weights: str = ""  # another format than the model's
    kv: str = ""
    price_usd_per_chip_hour: float = 0.0  # 0: the catalogue's, rented or written off
    price_factor: float = 2.0  # such a price is assumed to lie within this factor, up and down
    power_w_per_chip: float = 0.0  # 0: the catalogue's
    host_bytes_per_s_per_chip: float = 0.0  # from where idle caches wait; 0: the catalogue's

    def __post_init__(self) -> None:
        emu.chip(self.chip)  # or it is refused when its turn comes, after others were predicted
        emu.stack(self.stack)
        for name in ("chips", "tensor", "pipeline", "expert"):
            if (given := getattr(self, name)) < 0:
                raise ExperimentError(f"{name} must be at least 0 (found), not {given}")
        if self.sequences < 1:
            raise ExperimentError(f"sequences must be at least 1, not {self.sequences}")
        if self.price_factor < 1:
            raise ExperimentError(f"price_factor must be at least 1, not {self.price_factor}")
        for name in ("price_usd_per_chip_hour", "power_w_per_chip", "host_bytes_per_s_per_chip"):
            if getattr(self, name) < 0:
                raise ExperimentError(f"{name} must be at least 0 (the catalogue's)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deployment:
    """One instance of one model."""

    served: Served
    hardware: Hardware
    window_tokens: int  # the longest context, the new tokens included
    drafted: int = 0  # tokens that each step verifies beside its own

    def __post_init__(self) -> None:
        if self.window_tokens < 1024:
            raise ExperimentError(f"window_tokens must be at least 1024, not {self.window_tokens}")
        if self.drafted < 0:
            raise ExperimentError(f"drafted must be at least 0, not {self.drafted}")
        check_context(self.served.model, self.window_tokens, "window_tokens")

    @property
    def question(self) -> Question:
        """What sizes it: as many whole contexts as it has to hold, decoding one more token."""
        of = self.hardware
        return Question(
            model=self.served.model,
            chip=of.chip,
            stack=of.stack,
            weights=of.weights or self.served.weights,
            kv=of.kv or self.served.kv,
            chips=of.chips or None,
            tensor=of.tensor or None,
            pipeline=of.pipeline or None,
            expert=of.expert or None,
            batch=of.sequences,
            context=self.window_tokens - self.drafted - 1,
            draft_tokens=self.drafted,
        )


def on_each(
    served: Served, systems: Mapping[str, Hardware], window_tokens: int, drafted: int
) -> dict[str, Deployment]:
    """One model on each of some systems, by the systems' names."""
    return {
        name: Deployment(
            served=served, hardware=hardware, window_tokens=window_tokens, drafted=drafted
        )
        for name, hardware in systems.items()
    }
