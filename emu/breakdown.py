"""Which part of a step's seconds is spent on what."""

from typing import Any

from emu.clocked import Clocked
from emu.schedule import Schedule
from emu.timeline import PARTS


def breakdown(of: Schedule, at: Clocked) -> dict[str, Any]:
    """Where the step's seconds go; the parts add up to it.

    Kernels that arithmetic holds up longest count as `compute`. All others wait for bytes: their
    time, stalls included, is shared by kind as their bytes' time is.
    """
    exchanging = at.exchange >= at.needed
    computing = (at.compute >= at.needed) & ~exchanging
    overhead = at.per_step + of.times @ (at.before - at.crossing)
    collectives = of.times @ (at.busy * exchanging + at.crossing)
    compute = of.times @ (at.busy * computing)
    reading = at.seconds - overhead - collectives - compute
    kinds = (at.by_kind * ~(computing | exchanging)) @ of.times
    whole = kinds.sum()
    nobody = whole <= 0
    # What rounding the corners adds where nothing waits for bytes belongs to the arithmetic.
    compute = compute + nobody * reading
    weights, cache, activations = kinds * (reading / (whole + nobody))
    parts = (weights, cache, activations, compute, collectives, overhead)
    return dict(zip(PARTS, parts, strict=True))
