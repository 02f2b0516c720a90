"""What an inverse design asks for: a work, a system to begin with, and the seconds of its step."""

import dataclasses
import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from emu.design.counts import Array, Layout, counts_of, totals_of
from emu.design.family import Rules
from emu.design.rowwise import steps
from emu.errors import EmuError
from emu.placement import Placement, place
from emu.sensitivity import Elasticity, ranked
from emu.system import System
from emu.timing import predict
from emu.work import Work


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """One step of `work` on `system`, with other numbers, in `seconds` at most.

    `rules` place its tensors, as for `emu.place`; what they put into a memory must fit there.
    """

    work: Work
    system: System
    rules: Rules
    seconds: float
    activations: str | None = None  # the memory for activations; None: as `emu.place` chooses

    def __post_init__(self) -> None:
        for name, kind in (("work", Work), ("system", System)):
            if not isinstance(getattr(self, name), kind):
                raise EmuError(f"design: a target's {name} must be an emu.{kind.__name__}")
        if not (is_number(self.seconds) and 0 < self.seconds < math.inf):
            raise EmuError(f"design: a target is a number of seconds above 0, not {self.seconds}")
        object.__setattr__(self, "seconds", float(self.seconds))
        if self.rules == "fit":
            raise EmuError(
                "design: with 'fit' weights move as capacities do, and the step jumps: give rules, "
                "'on-chip' or 'off-chip', and solve for each"
            )

    def placed(self, roomy: System) -> Placement:
        """The placement, on a system with as much capacity as may be asked for."""
        return place(self.work, roomy, self.rules, True, self.activations)


def is_number(value: Any) -> bool:
    """Whether it is a real number, Python's or NumPy's."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def needed_bytes(work: Work, placement: Placement) -> tuple[float, ...]:
    """Bytes that each memory of the fullest chip (or the pool of a replica) must hold, so much
    of its capacity as the stack does not keep for itself.
    """
    chip, ranks = placement.system.chip, placement.system.ranks
    of = dict(zip(totals_of(len(chip.memories)), counts_of(work, placement).totals, strict=True))
    alive = min(of["alive"], np.ceil(of["alive"] * of["largest_here"] / of["largest"]))
    share = 1.0 / placement.system.chips_per_replica if ranks is None else float(ranks.per_chip)
    return tuple(
        share * float(of[f"held/{m}"] + (alive if memory.name == placement.activations else 0.0))
        for m, memory in enumerate(chip.memories)
    )


def usable_bytes(system: System) -> list[Any]:
    """Of each memory of one chip, what the stack does not keep."""
    kept = 1.0 - system.software.reserve_share.value
    return [memory.capacity_bytes.value * kept for memory in system.chip.memories]


def exact(work: Work, system: System, placement: Placement) -> float:
    """Seconds of a step by the exact clock."""
    return float(predict(work, system, placement).seconds)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Clocked:
    """A placed work's seconds as a function of its system's numbers, for gradients: the loop over
    kernels of `emu.design.rowwise`, which compiles in a moment.
    """

    layout: Layout
    rows: Array
    totals: Array
    scratch: int
    kernel_s: float  # of the step that is asked for, each kernel's mean: what rounding goes by

    @classmethod
    def of(cls, target: Target, placement: Placement) -> "Clocked":
        """The target's, placed."""
        counts = counts_of(target.work, placement)
        names = [memory.name for memory in placement.system.chip.memories]
        runs = sum((stop - start) * times for start, stop, times in counts.layout.runs)
        return cls(
            layout=counts.layout,
            rows=counts.rows,
            totals=counts.totals,
            scratch=names.index(placement.activations),
            kernel_s=target.seconds / (counts.layout.calls * runs),
        )

    def seconds(self, system: System, smooth: Any = 0.0) -> Any:
        """Of one step; traced, in float64. smooth: as for `emu.predict`."""
        return steps(
            self.layout,
            self.rows,
            self.totals,
            system,
            self.scratch,
            jnp,
            smooth,
            smooth * self.kernel_s,
        ).seconds

    def elasticities(self, system: System) -> tuple[Elasticity, ...]:
        """Of the exact step's seconds to every number, the strongest first."""
        with jax.enable_x64(True):
            wide = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), system)
            seconds, slopes = jax.jit(jax.value_and_grad(self.seconds))(wide)
            return ranked(system, float(seconds), slopes)
