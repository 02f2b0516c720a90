"""Which part of a step's seconds is spent on what."""

from typing import Any

from emu.clocked import Clocked
from emu.schedule import Schedule
from emu.timeline import PARTS


def breakdown(of: Schedule, per_step: Any, at: Clocked, xp: Any) -> dict[str, Any]:
    """Where the step's seconds go; the parts add up to it.

    Kernels that arithmetic holds up longest count as `compute`. All others wait for bytes: their
    time, stalls included, is shared by kind as their bytes' time is.
    """
    repeats = of.calls * of.repeats
    exchanging = at.exchange >= at.needed
    computing = (at.compute >= at.needed) & ~exchanging
    overhead = per_step + repeats @ (at.before - at.crossing)
    collectives = repeats @ (at.busy * exchanging + at.crossing)
    compute = repeats @ (at.busy * computing)
    reading = at.seconds - overhead - collectives - compute
    kinds = (at.by_kind * ~(computing | exchanging)) @ repeats
    whole = xp.sum(kinds)
    shares = xp.where(whole > 0, kinds / xp.where(whole > 0, whole, 1.0), 0.0)
    # What rounding the corners adds where nothing waits for bytes belongs to the arithmetic.
    compute = compute + xp.where(whole > 0, 0.0, reading)
    parts = (*(reading * shares), compute, collectives, overhead)
    return dict(zip(PARTS, parts, strict=True))
