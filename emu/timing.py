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
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from emu import exchanges, lookahead
from emu.breakdown import breakdown
from emu.chips import Chip, Memory
from emu.clocked import Clocked
from emu.curves import least_seconds
from emu.errors import EmuError
from emu.exchanges import Way
from emu.linear import Rates
from emu.lookahead import NOTHING, Moves
from emu.mesh import crossing_seconds
from emu.placement import Placement
from emu.planning import Plan, plan_of
from emu.scalars import Scalars
from emu.spans import build_spans
from emu.system import System
from emu.timeline import Timeline
from emu.work import Work

_NUMBERS = (int, float, np.number)


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
    check(system, placement)
    plan = plan_of(work, placement, system.software.prefetch_kernels)
    if system.is_plain:
        return _timeline(plan, system, np, smooth)
    return _traced(plan, system, smooth)


def _traced(plan: Plan, system: System, smooth: float) -> Timeline:
    """In JAX and in float64.

    The transpose of an operation is made after the scope of `enable_x64` has been left, where no
    array of float64 can be: the pullback is therefore called inside one of its own. Where the
    caller has enabled float64, JAX differentiates as it likes, forwards too.
    """
    numbers, structure = jax.tree_util.tree_flatten(system)

    def timeline(*numbers: Any) -> Timeline:
        wide = [jnp.asarray(number, jnp.float64) for number in numbers]
        return _timeline(plan, jax.tree_util.tree_unflatten(structure, wide), jnp, smooth)

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


def _timeline(plan: Plan, system: System, xp: Any, smooth: float) -> Timeline:
    clocked = clock(plan, system, xp, smooth)
    power = system.chip.power_w
    build = None
    if xp is np:
        build = functools.partial(build_spans, plan.schedule, system, clocked)
    return Timeline(
        seconds=clocked.seconds,
        breakdown=breakdown(plan.schedule, clocked, xp),
        traffic=plan.traffic,
        energy_j=None if power is None else power.value * system.chips * clocked.seconds,
        notes=plan.notes,
        build_spans=build,
    )


def clock(plan: Plan, system: System, xp: Any = np, smooth: float = 0.0) -> Clocked:
    """The seconds of a plan's rows, and of the whole step."""
    of, chip, stack = plan.schedule, system.chip, system.software
    per_chip = 1 if system.ranks is None else system.ranks.per_chip
    bandwidths = [bandwidth_of(m, system) / per_chip for m in chip.memories]
    found = plan.linear.seconds(_rates(plan, system, bandwidths, xp), xp)
    compute, exchange, at_run, in_all = found.compute, found.exchange, found.at_run, found.in_all
    before, crossing = found.before, np.zeros(len(of.rows))
    if plan.regions is not None:
        # A region of a mesh has its share of the chip; what is off it comes over one port for all.
        share = plan.regions.share
        near = np.array([m.placement == "on-chip" for m in chip.memories])
        slower = np.where(near[:, None], 1.0 / share, 1.0)
        compute, at_run, in_all = compute / share, at_run * slower, in_all * slower
        mesh = chip.mesh
        assert mesh is not None
        at = plan.regions
        crossing = crossing_seconds(share, at.crossings, at.vector_bytes, mesh, stack, xp)
        before = before + crossing
    others = [compute, exchange, found.entry, *least_seconds(plan.reads, system, xp)]
    busy = greatest(xp, smooth, [*others, *at_run])
    needed = greatest(xp, 0.0, [*others, *in_all])
    in_a_call = xp.dot(of.repeats, before + busy)
    feeds = {}
    waits = {}
    for j in plan.off_chip:
        buffer = buffer_bytes(plan.faster[j], system, Scalars if xp is np else xp)
        feed = in_all[j]
        caps = xp.minimum(plan.ahead[j], buffer) / bandwidths[j]
        feeds[j] = (feed, caps)
        if system.is_plain and not smooth:
            rooms = np.minimum(plan.moves[j].ahead, buffer) / bandwidths[j]
            stalls = _stalls_of_plain(plan.moves[j], before, busy - feed, rooms)
        else:
            rounding = smooth * in_a_call / of.repeats.sum() if smooth else 0.0
            stalls = _stalls(plan, before, busy - feed, caps, xp, rounding)
        waits[j] = of.calls * stalls
    per_step = per_step_seconds(plan, system)
    return Clocked(
        seconds=functools.reduce(xp.maximum, waits.values(), 0.0) + of.calls * in_a_call + per_step,
        per_step=per_step,
        before=before,
        crossing=crossing,
        busy=busy,
        compute=compute,
        exchange=exchange,
        needed=needed,
        by_kind=found.by_kind,
        at_run=at_run,
        feeds=feeds,
        waits=waits,
    )


def _rates(plan: Plan, system: System, bandwidths: Sequence[Any], xp: Any) -> Rates:
    """Seconds of one of each thing that the plan counts."""
    chip, stack, xp = system.chip, system.software, Scalars if xp is np else xp
    per_chip = 1 if system.ranks is None else system.ranks.per_chip
    rate = chip.weight_entry_bytes_per_s
    per_kernel = stack.per_kernel_s.value
    if stack.as_measured and chip.kernel_s is not None:
        per_kernel = per_kernel + chip.kernel_s.value
    per_weight = 0.0
    if plan.unpacks:
        per_weight = stack.unpack_flops.value * per_chip / chip.peak("float32").value
    slower = 1.0 / stack.cache_share.value - 1.0  # cache bytes count as so many more
    reached = stack.compute_share.value / per_chip
    sent = plan.schedule.collectives
    ways = {group: way_of(group, system) for group in {c.group for c in sent}}
    latencies = [m.latency_s.value for m in chip.memories]
    exposed = stack.exposed_latency.value
    return Rates(
        byte=[1.0 / bandwidth for bandwidth in bandwidths],
        cache_byte=[slower / bandwidth for bandwidth in bandwidths],
        flop=[1.0 / (peak * reached) for peak in peaks_of(plan.schedule.flop_kinds, chip)],
        exchange=[
            exchange_seconds(c.kind, ways[c.group], float(c.bytes), system, xp) for c in sent
        ],
        entering=[0.0 if rate is None else per_chip / rate.value],
        launch=[per_kernel],
        unpacked=[per_weight],
        late=[stack.per_unpack_s.value],
        latency=[
            exposed * functools.reduce(xp.maximum, [latencies[j] for j in waited], 0.0)
            for waited in plan.linear.waited
        ],
    )


def buffer_bytes(buffers: Sequence[Any], system: System, xp: Any) -> Any:
    """What may be fetched ahead into the faster memories, of which `buffers` are."""
    per_chip = 1 if system.ranks is None else system.ranks.per_chip
    most = system.software.prefetch_bytes.value
    for memory, is_one in zip(system.chip.memories, buffers, strict=True):
        if is_one:
            most = xp.minimum(most, memory.capacity_bytes.value / per_chip)
    return most


def per_step_seconds(plan: Plan, system: System) -> Any:
    """What the stack takes once a step, for its tokens, and for its layers of experts."""
    stack = system.software
    return (
        stack.per_step_s.value
        + plan.tokens * stack.per_sequence_s.value
        + plan.routed_layers * stack.per_routing_s.value
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
    steps = np.array((before, slack)).T.ravel()
    slacks, caps = np.add.reduceat(steps, moves.starts).tolist(), rooms.tolist()
    nothing = cycle = lookahead.Run(*NOTHING)
    for start, stop, repeats in moves.runs:
        if repeats == 1:
            cycle = lookahead.followed_by(cycle, slacks[start:stop], caps[start:stop])
            continue
        once = lookahead.followed_by(nothing, slacks[start:stop], caps[start:stop])
        again = lookahead.repeated(once, repeats, Scalars)
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


def bandwidth_of(memory: Memory, system: System) -> Any:
    """Bytes per second that the system's software reaches in one chip's memory."""
    return memory.bandwidth_bytes_per_s.value * system.software.share_of(memory)


def peaks_of(kinds: Sequence[tuple[str, bool]], chip: Chip) -> list[Any]:
    """FLOP/s for each kind: a dtype, and whether it is of products.

    Elementwise arithmetic in a dtype that the chip states no peak for is taken to go at the lowest
    that it states. Weights in float4 meet activations in bfloat16 where the chip does not multiply
    float4: kernels widen them to that, not to float8.
    """
    peaks = []
    for dtype, dot in kinds:
        widened = dot and dtype.startswith("float4") and "float4" not in chip.peak_flops_per_s
        try:
            peaks.append(chip.peak("bfloat16" if widened else dtype).value)
        except EmuError:
            if dot or not chip.peak_flops_per_s:
                raise
            stated = [peak.value for peak in chip.peak_flops_per_s.values()]
            peaks.append(functools.reduce(_lower, stated))
    return peaks


def _lower(a: Any, b: Any) -> Any:
    plain = isinstance(a, (*_NUMBERS, np.ndarray)) and isinstance(b, (*_NUMBERS, np.ndarray))
    return np.minimum(a, b) if plain else jnp.minimum(a, b)


def exchange_seconds(kind: str, way: Way, sent_bytes: Any, system: System, xp: Any) -> Any:
    """Seconds of exchanges under the system's software, in a group of which `way` is."""
    return system.software.per_exchange_s.value + exchanges.seconds(way, kind, sent_bytes, xp)


def way_of(group: int, system: System) -> Way:
    """The way between a group of the system's ranks."""
    stack = system.software
    return exchanges.way_of(
        system.chip,
        group,
        per_chip=1 if system.ranks is None else system.ranks.per_chip,
        share=stack.link_share.value,
        as_measured=stack.as_measured,
        two_dimensional=stack.lays_out_2d,
    )


def greatest(xp: Any, smooth: Any, terms: Sequence[Any]) -> Any:
    """The maximum of the terms, or their p-norm with p = 1/smooth, which is never less."""
    most = functools.reduce(xp.maximum, terms)
    if isinstance(smooth, int | float) and not smooth:
        return most
    scale = xp.where(most > 0, most, 1.0)
    total = sum((term / scale) ** (1.0 / smooth) for term in terms)
    return xp.where(most > 0, scale * xp.where(total > 0, total, 1.0) ** smooth, 0.0)
