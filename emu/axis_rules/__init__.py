"""One axis rule per primitive family; importing this package fills `emu.axis_table`."""

from emu.axis_rules import (
    convolutions,
    dots,
    elementwise,
    lookups,
    native,
    pieces,
    reductions,
    updates,
    views,
)

__all__ = [
    "convolutions",
    "dots",
    "elementwise",
    "lookups",
    "native",
    "pieces",
    "reductions",
    "updates",
    "views",
]
