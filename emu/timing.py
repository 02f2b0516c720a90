"""The clock: how long a placed work takes on a system.

Kernels run one after the other. One kernel keeps its chip busy for

    busy = max(FLOPs ÷ peak, bytes through each memory's port ÷ its bandwidth, weight bytes ÷ the
               rate at which they can enter the compute units)

where the port of a memory carries its own bytes and those of every slower memory behind it: what
comes from HBM passes through the SRAM. Weights' addresses are known ahead, so that off-chip ports
fetch them while earlier kernels run, as many kernels ahead as the stack does and as many bytes as
the faster memories hold; what is missing when a kernel needs it is a stall (`emu.lookahead`). The
launch of a kernel and the latency that the stack leaves exposed come before its `busy`, collectives
(`emu.exchanges`) are kernels of their own. So

    step = per step + Σ (launch + exposed latency + crossing + busy) + stalls

where `crossing` is what vectors take across a chip that is a mesh of cores (`emu.mesh`).

With several off-chip memories each port keeps its own lead, and the one with the most stalls
decides. The step is taken to be one of many alike, so that its first weights are fetched at the end
of the step before. Nothing is faster than bytes ÷ bandwidth of any port, or FLOPs ÷ peak.

It is one expression over arrays with a row a kernel (`emu.schedule`), in NumPy for plain numbers
and in JAX where a number is traced. Not modelled: two kernels at a time, contention between
prefetched and resident bytes for the on-chip memory's space.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from emu import lookahead
from emu.breakdown import breakdown
from emu.clocked import Clocked
from emu.curves import least_seconds
from emu.errors import EmuError, check_types
from emu.kept import Kept
from emu.lookahead import NOTHING, Moves
from emu.mesh import crossing_seconds
from emu.placement import Placement
from emu.planning import Plan, plan_of
from emu.rates import Rated, rated
from emu.scalars import Scalars, total
from emu.spans import build_spans
from emu.system import System
from emu.timeline import Timeline
from emu.work import Work


def predict(work: Work, system: System, placement: Placement, *, smooth: float = 0.0) -> Timeline:
    """One step's seconds, breakdown, traffic and energy.

    Args:
      work: from `emu.trace`.
      system: its numbers may be traced by `jax.vmap`, `jax.grad` or `jax.jit`; its chip's memories
        and its degrees must be those that the work was placed on.
      placement: from `emu.place`, of this work or of one with the same leaves.
      smooth: 0 is exact; above, maxima become p-norms with p = 1/smooth and stalls begin softly, so
        that gradients see what almost binds. Never less than the exact time.

    Computes in float64 whatever JAX's flags say, and changes none of them.

    Raises:
      EmuError: a work or system that is not the placement's, a peak that the chip does not state,
        a replica of several chips.
    """
    if not 0.0 <= smooth < 1.0:
        raise EmuError(f"predict: smooth must be from 0 to below 1, not {smooth}")
    known = _known.find(work, system, placement)
    if known is None:
        check_types(
            "predict", work=(work, Work), system=(system, System), placement=(placement, Placement)
        )
        check(system, placement)
        plan = plan_of(work, placement, system.software.prefetch_kernels)
        if not system.is_plain:
            return _traced(plan, system, smooth)
        known = _known.keep((plan, rated(plan, system)), work, system, placement)
    return _timeline(*known, system, np, smooth)


_known: Kept[tuple[Plan, Rated]] = Kept()  # of plain numbers


def _traced(plan: Plan, system: System, smooth: float) -> Timeline:
    """In JAX and in float64.

    The transpose of an operation is made after the scope of `enable_x64` has been left, where no
    array of float64 can be: the pullback is therefore called inside one of its own. Where the
    caller has enabled float64, JAX differentiates as it likes, forwards too.
    """
    numbers, structure = jax.tree_util.tree_flatten(system)

    def timeline(*numbers: Any) -> Timeline:
        wide = [jnp.asarray(number, jnp.float64) for number in numbers]
        traced = jax.tree_util.tree_unflatten(structure, wide)
        return _timeline(plan, rated(plan, traced, jnp), traced, jnp, smooth)

    if jnp.result_type(float) == jnp.float64:
        return timeline(*numbers)

    def forwards(*numbers: Any) -> Any:
        with jax.enable_x64(True):
            return jax.vjp(timeline, *numbers)

    def backwards(pullback: Any, cotangent: Any) -> Any:
        with jax.enable_x64(True):
            return pullback(cotangent)

    scoped = jax.custom_vjp(timeline)
    scoped.defvjp(forwards, backwards)
    with jax.enable_x64(True):
        return scoped(*numbers)


def check(system: System, placement: Placement) -> None:
    """Raises EmuError where a placement is not one that this system can be timed on."""
    placed = placement.system
    if system.ranks is None and system.chips_per_replica > 1:
        raise EmuError(
            f"predict: {system.chips_per_replica} chips share one copy of the weights, and nothing "
            "says how: give degrees that multiply to them, such as "
            f"tensor={system.chips_per_replica}"
        )
    if placed is system:
        return
    for name in ("chips", "tensor", "pipeline", "expert", "data"):
        if getattr(placed, name) != getattr(system, name):
            raise EmuError(
                f"predict: the work was placed with {name}={getattr(placed, name)} and the system "
                f"has {name}={getattr(system, name)}: place it on this system"
            )
    here = [(m.name, m.placement) for m in system.chip.memories]
    if here != [(m.name, m.placement) for m in placed.chip.memories]:
        raise EmuError(
            f"predict: the work was placed on {placed.chip.name!r}, whose memories are not those "
            f"of {system.chip.name!r}: place it on this system"
        )


def _timeline(plan: Plan, rates: Rated, system: System, xp: Any, smooth: float) -> Timeline:
    clocked = clock(plan, rates, system, xp, smooth)
    power = system.chip.power_w
    build = None
    if xp is np:
        build = functools.partial(build_spans, plan, rates, system, clocked)
    return Timeline(
        seconds=clocked.seconds,
        breakdown=breakdown(plan.schedule, clocked, xp),
        traffic=plan.traffic,
        energy_j=None if power is None else power.value * system.chips * clocked.seconds,
        notes=plan.notes,
        build_spans=build,
    )


def clock(plan: Plan, rates: Rated, system: System, xp: Any = np, smooth: float = 0.0) -> Clocked:
    """The seconds of a plan's rows, and of the whole step."""
    of, chip = plan.schedule, system.chip
    found = plan.linear.seconds(rates.seconds, xp)
    compute, exchange, at_run = found.compute, found.exchange, found.at_run
    before, crossing = found.before, None
    if plan.regions is not None:
        # A region of a mesh has its share of the chip; what is off it comes over one port for all.
        share = plan.regions.share
        slower = [1.0 / share if m.placement == "on-chip" else 1.0 for m in chip.memories]
        compute = compute / share
        at_run = [seconds * slower[j] for j, seconds in zip(plan.linear.ports, at_run, strict=True)]
        mesh = chip.mesh
        assert mesh is not None
        at = plan.regions
        crossing = crossing_seconds(share, at.crossings, at.vector_bytes, mesh, system.software, xp)
        before = before + crossing
    takes = [compute, exchange, found.entry, *least_seconds(plan.reads, system, xp), *at_run]
    most = greatest(xp, 0.0, takes)
    busy = greatest(xp, smooth, takes) if smooth else most
    launching, running = total(before, of.times, xp), total(busy, of.times, xp)
    feeds = dict(zip(plan.off_chip, found.in_all, strict=True))
    waits = {}
    for j, feed in feeds.items():
        slack = busy - feed
        if xp is np and not smooth:
            stalls = _stalls_of_plain(plan.moves[j], before, slack, rates.rooms[j])
        else:
            rounding = smooth * (launching + running) / of.times.sum() if smooth else 0.0
            rooms = rates.ports[j].rooms(plan.ahead[j], xp)
            stalls = _stalls(plan, before, slack, rooms, xp, rounding)
        waits[j] = of.calls * stalls
    most_waited = functools.reduce(Scalars.maximum if xp is np else xp.maximum, waits.values(), 0.0)
    return Clocked(
        seconds=most_waited + (launching + running) + rates.per_step_s,
        per_step=rates.per_step_s,
        launching=launching,
        before=before,
        crossing=crossing,
        busy=busy,
        compute=compute,
        exchange=exchange,
        needed=functools.reduce(xp.maximum, found.in_all, most),
        by_kind=found.by_kind,
        at_run=at_run,
        feeds=feeds,
        waits=waits,
    )


def _stalls(plan: Plan, before: Any, slack: Any, caps: Any, xp: Any, rounding: Any) -> Any:
    """Stalls on one port in one of the schedule's calls; caps on its lead are [rows, 2]."""
    kernels = lookahead.then(
        lookahead.one(before, caps[:, 0]), lookahead.one(slack, caps[:, 1]), xp, rounding
    )
    laid = lookahead.Run(
        *[
            _laid_out(plan, field, nothing, xp)
            for field, nothing in zip(kernels, NOTHING, strict=True)
        ]
    )
    runs = lookahead.repeated(lookahead.folded(laid, xp, rounding), plan.run_repeats, xp)
    return lookahead.stalls_of_cycle(lookahead.folded(runs, xp, rounding), xp, rounding)


def _stalls_of_plain(moves: Moves, before: Any, slack: Any, rooms: Any) -> float:
    """`_stalls` of plain numbers, exactly and without an array for each step."""
    steps = moves.steps(before, slack, rooms)
    nothing = cycle = lookahead.Run(*NOTHING)
    for count, repeats in moves.runs:
        run = itertools.islice(steps, count)
        if repeats == 1:
            cycle = lookahead.followed_by(cycle, run)
            continue
        again = lookahead.repeated(lookahead.followed_by(nothing, run), repeats, Scalars)
        cycle = lookahead.then(cycle, again, Scalars)
    return float(lookahead.stalls_of_cycle(cycle, Scalars))


def _laid_out(plan: Plan, field: Any, nothing: float, xp: Any) -> Any:
    """Rows [rows] as [runs, longest], filled up with runs that change nothing."""
    lines = [
        xp.concatenate(
            (field[run.start : run.stop], np.full(plan.longest - run.stop + run.start, nothing))
        )
        for run in plan.schedule.runs
    ]
    lines += [np.full(plan.longest, nothing)] * (len(plan.run_repeats) - len(lines))
    return xp.stack(lines)


def greatest(xp: Any, smooth: Any, terms: Sequence[Any]) -> Any:
    """The maximum of the terms, or their p-norm with p = 1/smooth, which is never less."""
    most = functools.reduce(xp.maximum, terms)
    if isinstance(smooth, int | float) and not smooth:
        return most
    scale = xp.where(most > 0, most, 1.0)
    total = sum((term / scale) ** (1.0 / smooth) for term in terms)
    return xp.where(most > 0, scale * xp.where(total > 0, total, 1.0) ** smooth, 0.0)
