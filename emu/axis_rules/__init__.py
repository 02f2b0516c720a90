"""One axis rule per primitive family; importing this package fills `emu.axis_table`."""

from emu.axis_rules import (
    collectives,
    convolutions,
    dots,
    elementwise,
    lookups,
    native,
    pieces,
    reductions,
    references,
    updates,
    views,
)

__all__ = [
    "collectives",
    "convolutions",
    "dots",
    "elementwise",
    "lookups",
    "native",
    "pieces",
    "reductions",
    "references",
    "updates",
    "views",
]
