"""One cost rule per primitive family; importing this package fills the table in `emu.costs`."""

from emu.work_rules import (
    calls,
    collectives,
    convolutions,
    dots,
    elementwise,
    factorizations,
    foreign,
    lookups,
    loops,
    native,
    pallas,
    randomness,
    reductions,
    references,
    updates,
    views,
)

__all__ = [
    "calls",
    "collectives",
    "convolutions",
    "dots",
    "elementwise",
    "factorizations",
    "foreign",
    "lookups",
    "loops",
    "native",
    "pallas",
    "randomness",
    "reductions",
    "references",
    "updates",
    "views",
]
