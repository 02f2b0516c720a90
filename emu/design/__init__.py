"""The design space: grids of systems in one call, and the system that a target asks for.

`sweep` evaluates grids of chips' numbers, splits, placements, batches and contexts; `solve` finds
the cheapest numbers that meet a latency; `front` the best that systems can do for a user and for a
chip. All stand on the clock of `emu.predict`, and on works that are traced once.
"""

from emu.design.block import Block
from emu.design.grid import SystemGrid, WorkGrid, label, numbers_of, with_numbers
from emu.design.sweeping import blocks_of, computed, sweep

__all__ = [
    "Block",
    "SystemGrid",
    "WorkGrid",
    "blocks_of",
    "computed",
    "label",
    "numbers_of",
    "sweep",
    "with_numbers",
]
