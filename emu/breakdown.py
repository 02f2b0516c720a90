"""Which part of a step's seconds is spent on what."""

from typing import Any

from emu.clocked import Clocked
from emu.scalars import total
from emu.schedule import Schedule
from emu.timeline import PARTS


def breakdown(of: Schedule, at: Clocked, xp: Any) -> dict[str, Any]:
    """Where the step's seconds go; the parts add up to it.

    Kernels that arithmetic holds up longest count as `compute`. All others wait for bytes: their
    time, stalls included, is shared by kind as their bytes' time is.
    """
    exchanging = at.exchange >= at.needed
    busiest = exchanging | (at.compute >= at.needed)
    busy = of.times * at.busy
    crossing = 0.0 if at.crossing is None else total(at.crossing, of.times, xp)
    overhead = at.per_step + at.launching - crossing
    exchanged = total(busy, exchanging, xp)
    compute = total(busy, busiest, xp) - exchanged
    collectives = exchanged + crossing
    reading = at.seconds - overhead - collectives - compute
    weights, cache, activations = total(at.by_kind, of.times * ~busiest, xp)
    whole = weights + cache + activations
    nobody = whole <= 0
    # What rounding the corners adds where nothing waits for bytes belongs to the arithmetic.
    compute = compute + nobody * reading
    share = reading / (whole + nobody)
    weights, cache, activations = weights * share, cache * share, activations * share
    parts = (weights, cache, activations, compute, collectives, overhead)
    return dict(zip(PARTS, parts, strict=True))
