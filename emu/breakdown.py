"""Which part of a step's seconds is spent on what."""

from typing import Any

from emu.clocked import Clocked
from emu.schedule import Schedule
from emu.timeline import PARTS


def breakdown(of: Schedule, at: Clocked, xp: Any) -> dict[str, Any]:
    """Where the step's seconds go; the parts add up to it.

    Kernels that arithmetic holds up longest count as `compute`. All others wait for bytes: their
    time, stalls included, is shared by kind as their bytes' time is.
    """
    exchanging = at.exchange >= at.needed
    busiest = xp.maximum(at.exchange, at.compute) >= at.needed
    busy, crossing = of.times * at.busy, xp.dot(of.times, at.crossing)
    overhead = at.per_step + xp.dot(of.times, at.before) - crossing
    exchanged = xp.dot(busy, exchanging)
    compute = xp.dot(busy, busiest) - exchanged
    collectives = exchanged + crossing
    reading = at.seconds - overhead - collectives - compute
    weights, cache, activations = xp.dot(at.by_kind, of.times * ~busiest)
    whole = weights + cache + activations
    nobody = whole <= 0
    # What rounding the corners adds where nothing waits for bytes belongs to the arithmetic.
    compute = compute + nobody * reading
    share = reading / (whole + nobody)
    weights, cache, activations = weights * share, cache * share, activations * share
    parts = (weights, cache, activations, compute, collectives, overhead)
    return dict(zip(PARTS, parts, strict=True))
