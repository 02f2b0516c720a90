"""Chips and how a model is spread over them.

The parallel degrees are static: they decide the shapes of what each chip holds and does. The
numbers that a sweep or a gradient varies are the chip's and the stack's, and those are the
pytree's leaves.
"""

import dataclasses
import functools

from emu.chips import Chip
from emu.errors import EmuError
from emu.ranks import Ranks, layout
from emu.records import is_number, pytree
from emu.stacks import Stack, stack

DEGREES = ("tensor", "pipeline", "expert", "data")


@pytree(static=("chips", "tensor", "pipeline", "expert", "data"))
@dataclasses.dataclass(frozen=True)
class System:
    """`chips` equal chips, the degrees by which the model is spread over them, and the software.

    `data` > 1: that many replicas, each with all the weights on its share of the chips. `stack` is
    a `Stack`, or the name of a known one. Where no degree but `data` is given, the chips of one
    replica are one pool over which `emu.place` spreads the bytes evenly; else the degrees must
    multiply to the number of chips, or of their cores (`emu.ranks`).
    """

    chip: Chip
    _: dataclasses.KW_ONLY
    chips: int = 1
    tensor: int = 1
    pipeline: int = 1
    expert: int = 1
    data: int = 1
    stack: Stack | str = "ideal"

    def __post_init__(self) -> None:
        if not isinstance(self.chip, Chip):
            raise EmuError(
                f"system: chip must be an emu.Chip, such as emu.chip('h100'), not {self.chip!r:.60}"
            )
        for name in ("chips", *DEGREES):
            degree = getattr(self, name)
            if not isinstance(degree, int) or isinstance(degree, bool) or degree < 1:
                raise EmuError(f"system: {name} must be a whole number of at least 1, not {degree}")
        if self.chips % self.data:
            raise EmuError(
                f"system: {self.chips} chips cannot hold {self.data} equal replicas (data=); "
                f"take a multiple of {self.data} chips"
            )
        if not isinstance(self.stack, Stack):
            object.__setattr__(self, "stack", stack(self.stack))
        self.ranks  # noqa: B018 (degrees that do not come out are refused here)

    @functools.cached_property
    def ranks(self) -> Ranks | None:
        """How the ranks are laid out; None where the chips of a replica are one pool."""
        return layout(
            chips=self.chips,
            cores=self.chip.cores,
            tensor=self.tensor,
            pipeline=self.pipeline,
            expert=self.expert,
            data=self.data,
        )

    @functools.cached_property
    def is_plain(self) -> bool:
        """Whether all numbers that the clock uses are plain, none traced."""
        chip = self.chip
        used = [chip.weight_entry_bytes_per_s, chip.power_w, chip.kernel_s]
        used += chip.peak_flops_per_s.values()
        for m in chip.memories:
            used += [m.bandwidth_bytes_per_s, m.latency_s, m.capacity_bytes, m.achieved_share]
        for link in chip.links:
            used += [link.bandwidth_bytes_per_s, link.latency_s, link.achieved_share]
            used += [link.streamed_share, link.streamed_start_s]
            used += link.small_allreduce_s.values()
        stated = (number.value for number in used if number is not None)
        return self.software.is_plain and all(map(is_number, stated))

    @property
    def chips_per_replica(self) -> int:
        """How many chips share one copy of the weights."""
        return self.chips // self.data

    @property
    def software(self) -> Stack:
        """The stack, whose name was looked up when the system was made."""
        assert isinstance(self.stack, Stack)
        return self.stack
