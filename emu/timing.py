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
from emu.lookahead import NOTHING, Moves
from emu.mesh import crossing_seconds, mesh_of
from emu.placement import Placement
from emu.planning import Plan, plan_of
from emu.scalars import Scalars
from emu.spans import build_spans
from emu.system import System
from emu.timeline import Timeline
from emu.work import Collective, Work

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
        breakdown=breakdown(plan.schedule, clocked),
        traffic=plan.traffic,
        energy_j=None if power is None else power.value * system.chips * clocked.seconds,
        notes=plan.notes,
        build_spans=build,
    )


def clock(plan: Plan, system: System, xp: Any = np, smooth: float = 0.0) -> Clocked:
    """The seconds of a plan's rows, and of the whole step."""
    of, chip, stack = plan.schedule, system.chip, system.software
    per_chip = 1 if system.ranks is None else system.ranks.per_chip
    bandwidth = _row(xp, [bandwidth_of(m, system) / per_chip for m in chip.memories])
    peaks = [peak * stack.compute_share.value / per_chip for peak in peaks_of(of.flop_kinds, chip)]
    compute = of.flops @ _row(xp, [1.0 / peak for peak in peaks])
    slower = 1.0 / stack.cache_share.value - 1.0  # cache bytes count as so many more
    ports = (plan.port_bytes + slower * plan.cache_bytes) / bandwidth[:, None, None]
    exchange = of.exchanges @ _row(xp, [_exchange(c, system, xp) for c in of.collectives])
    crossing = np.zeros(len(of.rows))
    if plan.regions is not None:
        # A region of a mesh has its share of the chip; what is off it comes over one port for all.
        share = plan.regions.share
        near = np.array([m.placement == "on-chip" for m in chip.memories])
        ports = ports * np.where(near[:, None, None], 1.0 / share, 1.0)
        compute = compute / share
        mesh = mesh_of(chip)
        assert mesh is not None
        at = plan.regions
        crossing = crossing_seconds(share, at.crossings, at.vector_bytes, mesh, stack, xp)
    others = [compute, exchange, *_entry(plan, chip, per_chip)]
    others += least_seconds(plan.reads, system, xp)
    at_run, in_all = ports[:, 0], ports[:, 1]
    busy = greatest(xp, smooth, [*others, *at_run])
    needed = greatest(xp, 0.0, [*others, *in_all])
    per_kernel = stack.per_kernel_s.value
    if stack.as_measured and chip.kernel_s is not None:
        per_kernel = per_kernel + chip.kernel_s.value
    before = of.launched * per_kernel + stack.exposed_latency.value * _latency(plan, chip, xp)
    before = before + crossing
    if plan.unpacks:
        before = before + plan.unpacked * (
            stack.unpack_flops.value * per_chip / chip.peak("float32").value
        )
        before = before + plan.starts_late * stack.per_unpack_s.value
    in_a_call = of.repeats @ (before + busy)
    feeds = {}
    waits = {}
    for j in plan.off_chip:
        buffer = buffer_bytes(plan.faster[j], system, xp)
        feed = in_all[j]
        caps = xp.minimum(plan.ahead[j], buffer) / bandwidth[j]
        feeds[j] = (feed, caps)
        if system.is_plain and not smooth:
            rooms = np.minimum(plan.moves[j].ahead, buffer) / bandwidth[j]
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
        by_kind=of.bytes @ (1.0 / bandwidth),
        at_run=at_run,
        feeds=feeds,
        waits=waits,
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


def exchange_seconds(kind: str, group: int, sent_bytes: Any, system: System, xp: Any) -> Any:
    """Seconds of an exchange under the system's software."""
    stack = system.software
    return stack.per_exchange_s.value + exchanges.seconds(
        system.chip,
        kind,
        group,
        sent_bytes,
        xp,
        per_chip=1 if system.ranks is None else system.ranks.per_chip,
        share=stack.link_share.value,
        as_measured=stack.as_measured,
        two_dimensional=stack.lays_out_2d,
    )


def _exchange(of: Collective, system: System, xp: Any) -> Any:
    xp = Scalars if xp is np else xp
    return exchange_seconds(of.kind, of.group, float(of.bytes), system, xp)


def _entry(plan: Plan, chip: Chip, per_chip: int) -> list[Any]:
    """Seconds in which each row's stored operands enter the compute units."""
    rate = chip.weight_entry_bytes_per_s
    return [] if rate is None else [plan.entering * (per_chip / rate.value)]


def _latency(plan: Plan, chip: Chip, xp: Any) -> Any:
    """The longest latency of the memories that a row reads when it runs."""
    each = [at * m.latency_s.value for at, m in zip(plan.touched, chip.memories, strict=True)]
    return functools.reduce(xp.maximum, each)


def _row(xp: Any, numbers: list[Any]) -> Any:
    if xp is np:
        return np.array(numbers, np.float64)
    return jnp.stack([jnp.asarray(n, jnp.float64) for n in numbers]) if numbers else np.zeros(0)


def greatest(xp: Any, smooth: Any, terms: Sequence[Any]) -> Any:
    """The maximum of the terms, or their p-norm with p = 1/smooth, which is never less."""
    most = functools.reduce(xp.maximum, terms)
    if isinstance(smooth, int | float) and not smooth:
        return most
    scale = xp.where(most > 0, most, 1.0)
    total = sum((term / scale) ** (1.0 / smooth) for term in terms)
    return xp.where(most > 0, scale * xp.where(total > 0, total, 1.0) ** smooth, 0.0)
