"""The design space: grids of systems in one call, and the system that a target asks for.

`sweep` evaluates grids of chips' numbers, splits, placements, batches and contexts; `solve` finds
the cheapest numbers that meet a latency. Both stand on the clock of `emu.predict`, and on works
that are traced once.
"""

from emu.design.block import Block
from emu.design.executors import computed
from emu.design.grid import SystemGrid, WorkGrid, label, numbers_of, with_numbers
from emu.design.solving import Solution, solve
from emu.design.sweeping import blocks_of, sweep
from emu.design.target import Target

__all__ = [
    "Block",
    "Solution",
    "SystemGrid",
    "Target",
    "WorkGrid",
    "blocks_of",
    "computed",
    "label",
    "numbers_of",
    "solve",
    "sweep",
    "with_numbers",
]
