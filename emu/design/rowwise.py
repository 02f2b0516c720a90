"""The clock of `emu.timing`, kernel by kernel over many points at once.

It is the same formula: a kernel takes its launch, exposed latency and crossing, then the longest of
what its resources take; ports that fetch ahead stall as `emu.lookahead` says. There a kernel is an
entry of an array and a point a call; here a point is an entry and a kernel a turn of a loop, whose
arrays are as small as a block of points is, so that they stay in the cache. Counts may have another
shape than the system's numbers and are broadcast against them: [batches and contexts, 1] against
[systems] makes a table of every pair for the price of the products alone. A test holds it to
`emu.predict`.
"""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from emu import lookahead
from emu.design.counts import Array, Layout, totals_of
from emu.lookahead import NOTHING, Run
from emu.mesh import crossing_seconds, share_of
from emu.rates import bandwidth_of, buffer_bytes, exchange_seconds, peaks_of, way_of
from emu.schedule import KINDS
from emu.system import System
from emu.timeline import PARTS
from emu.timing import greatest


class Steps(NamedTuple):
    """Of each point."""

    seconds: Array
    parts: tuple[Array, ...]  # seconds, in the order of `emu.timeline.PARTS`
    binds: Array  # which of the parts is the largest
    # Bytes that the memory which lacks most has too few, on the fullest chip; below 0: has left.
    missing: Array
    missing_scratch: Array  # the same of the memory that activations go through
    scratch: Array  # a memory's number: which one that is


class _Sums(NamedTuple):
    """What the loop over kernels adds up, repeats included."""

    before: Array
    crossing: Array
    busy: Array
    exchanging: Array
    computing: Array
    kinds: tuple[Array, ...]
    ports: tuple[tuple[Run, Run], ...]  # of each that reads ahead: this run so far, all before it


def steps(
    layout: Layout,
    rows: Array,
    totals: Array,
    system: System,
    scratch: int,
    xp: Any = np,
    smooth: Any = 0.0,
    rounding: Any = 0.0,
) -> Steps:
    """One step at each point.

    Args:
      layout: of the counts.
      rows: [kernels, columns, …], the counts of each point.
      totals: [totals, …].
      system: its numbers are arrays that broadcast against […].
      scratch: which memory activations go through; they have to fit there.
      xp: NumPy, or jax.numpy in float64.
      smooth, rounding: as in `emu.timing`: of maxima, and the seconds over which stalls begin.
    """
    at = _Rates(layout, system, xp, smooth, rounding)
    shapes = (np.shape(leaf) for leaf in jax.tree.leaves(system))
    points = xp.zeros(np.broadcast_shapes(rows.shape[2:], *shapes))
    whole = dict(zip(totals_of(len(system.chip.memories)), totals, strict=True))
    sums = _looped(at, _Kernels.of(layout, rows), points, xp)
    stack, calls = system.software, layout.calls
    per_step = (
        stack.per_step_s.value
        + whole["tokens"] * stack.per_sequence_s.value
        + whole["routed_layers"] * stack.per_routing_s.value
    )
    waited = points
    for _, outer in sums.ports:
        waited = xp.maximum(waited, calls * lookahead.stalls_of_cycle(outer, xp, rounding))
    seconds = per_step + calls * (sums.before + sums.busy) + waited
    parts = _parts(sums, seconds, per_step, calls, xp)
    missing = missing_bytes(totals, system, scratch, xp)
    return Steps(
        seconds=seconds,
        parts=parts,
        binds=_largest(parts, xp),
        missing=points + functools.reduce(xp.maximum, missing),
        missing_scratch=points + missing[scratch],
        scratch=xp.full(points.shape, scratch, np.int8),
    )


def _largest(parts: tuple[Array, ...], xp: Any) -> Array:
    most, which = parts[0], xp.zeros(parts[0].shape, np.int8)
    for i, part in enumerate(parts[1:], start=1):
        which = xp.where(part > most, np.int8(i), which)
        most = xp.maximum(most, part)
    return which


class _Kernels(NamedTuple):
    """What is given of each kernel, [kernels, …]."""

    rows: Array
    repeats: Array
    launched: Array
    touched: Array
    crossing: Array
    begins: Array  # whether its run begins with it
    ends: Array

    @classmethod
    def of(cls, layout: Layout, rows: Array) -> "_Kernels":
        count = len(layout.launched)
        repeats, begins, ends = np.zeros(count), np.zeros(count, bool), np.zeros(count, bool)
        for start, stop, times in layout.runs:
            repeats[start:stop] = times
            begins[start], ends[stop - 1] = True, True
        return cls(
            rows=rows,
            repeats=repeats,
            launched=np.array(layout.launched, np.float64),
            touched=np.array(layout.touched, np.float64),
            crossing=np.array(layout.crossing, np.float64),
            begins=begins,
            ends=ends,
        )


class _Rates:
    """What a kernel's counts are multiplied by, from the system's numbers."""

    def __init__(self, layout: Layout, system: System, xp: Any, smooth: Any, rounding: Any) -> None:
        chip, stack = system.chip, system.software
        self.layout, self.system, self.xp = layout, system, xp
        self.smooth, self.rounding = smooth, rounding
        self.per_chip = 1 if system.ranks is None else system.ranks.per_chip
        self.per_step = stack.per_step_s.value
        self.per_byte = [self.per_chip / bandwidth_of(m, stack) for m in chip.memories]
        self.cache_slower = 1.0 / stack.cache_share.value - 1.0
        self.per_flop = [
            self.per_chip / (peak * stack.compute_share.value)
            for peak in peaks_of(layout.flop_kinds, chip)
        ]
        self.per_kernel = stack.per_kernel_s.value
        if stack.as_measured and chip.kernel_s is not None:
            self.per_kernel = self.per_kernel + chip.kernel_s.value
        self.per_unpacked = 0.0
        if "unpacked" in layout.columns:
            per_flop = self.per_chip / chip.peak("float32").value
            self.per_unpacked = stack.unpack_flops.value * per_flop
        rate = chip.weight_entry_bytes_per_s
        self.per_entry = None if rate is None else self.per_chip / rate.value
        self.buffers = {j: buffer_bytes(layout.faster[j], system, xp) for j in layout.off_chip}

    def exchange(self, counts: dict[str, Array]) -> Array | None:
        """Seconds of a kernel's exchanges; None where no kernel of the layout has any."""
        total = None
        for i, (kind, group) in enumerate(self.layout.exchanges):
            sent = counts.get(f"sent/{i}")
            if sent is None:
                continue
            taken = exchange_seconds(kind, way_of(group, self.system), sent, self.system, self.xp)
            taken = self.xp.where(sent > 0, taken, 0.0)
            total = taken if total is None else total + taken
        return total


def _looped(at: _Rates, kernels: _Kernels, points: Array, xp: Any) -> _Sums:
    nothing = Run(*[points + value for value in NOTHING])
    sums = _Sums(
        before=points,
        crossing=points,
        busy=points,
        exchanging=points,
        computing=points,
        kinds=(points,) * len(KINDS),
        ports=((nothing, nothing),) * len(at.layout.off_chip),
    )
    if xp is np:
        for i in range(len(kernels.repeats)):
            one = _Kernels(*[field[i] for field in kernels])
            sums = _added(at, sums, one, xp)
        return sums
    turn = functools.partial(_turn, at, xp)
    return jax.lax.scan(turn, sums, kernels)[0]


def _turn(at: _Rates, xp: Any, sums: _Sums, one: _Kernels) -> tuple[_Sums, None]:
    return _added(at, sums, one, xp), None


def _added(at: _Rates, sums: _Sums, one: _Kernels, xp: Any) -> _Sums:
    """The sums with one kernel more; see `emu.timing.clock`, whose formula this is."""
    layout, chip = at.layout, at.system.chip
    counts = dict(zip(layout.columns, one.rows, strict=True))
    memories = range(len(chip.memories))
    share, crossing = None, 0.0 * at.per_step
    if layout.is_mesh:
        share = share_of(counts["held"], counts["whole"], xp)
        mesh = chip.mesh
        assert mesh is not None
        crossing = crossing_seconds(
            share, one.crossing, counts.get("vector_bytes", 0.0), mesh, at.system.software, xp
        )
    compute: Array = 0.0
    for i, per_flop in enumerate(at.per_flop):
        if f"flops/{i}" in counts:
            compute = compute + counts[f"flops/{i}"] * per_flop
    compute = compute if share is None else compute / share
    needs, ports, through = [compute], [], {}
    for m in memories:
        slower = at.cache_slower * counts.get(f"cache_through/{m}", 0.0)
        near = share is not None and chip.memories[m].placement == "on-chip"
        per_byte = at.per_byte[m] / share if near else at.per_byte[m]
        if f"at_run/{m}" in counts:
            ports.append((counts[f"at_run/{m}"] + slower) * per_byte)
        if f"through/{m}" in counts:
            through[m] = (counts[f"through/{m}"] + slower) * per_byte
            needs.append(through[m])
    rest = []
    if at.per_entry is not None and "stored" in counts:
        rest.append(counts["stored"] * at.per_entry)
    exchange = at.exchange(counts)
    if exchange is not None:
        rest.append(exchange)
    busy = greatest(xp, at.smooth, [compute, *ports, *rest])
    needed = functools.reduce(xp.maximum, [*needs, *rest])
    before = _before(at, one, counts, xp) + crossing
    exchanging = False if exchange is None else exchange >= needed
    computing = (compute >= needed) & ~exchanging if exchange is not None else compute >= needed
    times = one.repeats
    waits = times * xp.where(computing if exchange is None else computing | exchanging, 0.0, 1.0)
    kinds = []
    for kind, total in zip(KINDS, sums.kinds, strict=True):
        taken = [
            counts[f"{kind}/{m}"] * at.per_byte[m] for m in memories if f"{kind}/{m}" in counts
        ]
        kinds.append(total + waits * sum(taken[1:], taken[0]) if taken else total)
    return _Sums(
        before=sums.before + times * before,
        crossing=sums.crossing + times * crossing,
        busy=sums.busy + times * busy,
        exchanging=sums.exchanging
        if exchange is None
        else sums.exchanging + times * xp.where(exchanging, busy, 0.0),
        computing=sums.computing + times * xp.where(computing, busy, 0.0),
        kinds=tuple(kinds),
        ports=_ahead(at, sums.ports, one, counts, before, busy, through, xp),
    )


def _before(at: _Rates, one: _Kernels, counts: dict[str, Array], xp: Any) -> Array:
    """Seconds before a kernel's work: its launch, exposed latency, integers to unpack."""
    stack, latency = at.system.software, 0.0
    for m, memory in enumerate(at.system.chip.memories):
        latency = xp.maximum(latency, one.touched[m] * memory.latency_s.value)
    before = one.launched * at.per_kernel + stack.exposed_latency.value * latency
    if "starts_late" in counts:
        before = before + counts["starts_late"] * stack.per_unpack_s.value
    if "unpacked" in counts:
        before = before + counts["unpacked"] * at.per_unpacked
    return before


def _ahead(
    at: _Rates,
    ports: tuple[tuple[Run, Run], ...],
    one: _Kernels,
    counts: dict[str, Array],
    before: Array,
    busy: Array,
    through: dict[int, Array],
    xp: Any,
) -> tuple[tuple[Run, Run], ...]:
    """The leads of the ports that read ahead, after one kernel more."""
    ahead = []
    for j, (this_run, runs_before) in zip(at.layout.off_chip, ports, strict=True):
        feed = through.get(j, 0.0)
        caps = [
            xp.minimum(counts.get(f"ahead_at_{end}/{j}", 0.0), at.buffers[j]) * at.per_byte[j]
            for end in ("begin", "end")
        ]
        launch, work = lookahead.one(before, caps[0]), lookahead.one(busy - feed, caps[1])
        mine = lookahead.then(launch, work, xp, at.rounding)
        so_far = _either(xp, one.begins, _nothing(this_run), this_run)
        run = lookahead.then(so_far, mine, xp, at.rounding)
        again = lookahead.repeated(run, one.repeats, xp)
        with_run = lookahead.then(runs_before, again, xp, at.rounding)
        ahead.append((run, _either(xp, one.ends, with_run, runs_before)))
    return tuple(ahead)


def _parts(sums: _Sums, seconds: Array, per_step: Array, calls: int, xp: Any) -> tuple[Array, ...]:
    """As `emu.breakdown.breakdown`, from the sums."""
    overhead = per_step + calls * (sums.before - sums.crossing)
    collectives = calls * (sums.exchanging + sums.crossing)
    compute = calls * sums.computing
    reading = seconds - overhead - collectives - compute
    whole = sum(sums.kinds[1:], sums.kinds[0])
    per_kind = xp.where(whole > 0, 1.0 / xp.where(whole > 0, whole, 1.0), 0.0) * reading
    compute = compute + xp.where(whole > 0, 0.0, reading)
    found = (*(kind * per_kind for kind in sums.kinds), compute, collectives, overhead)
    assert len(found) == len(PARTS)
    return found


def missing_bytes(totals: Array, system: System, scratch: int, xp: Any) -> tuple[Array, ...]:
    """Bytes that each memory of the fullest chip (or of a replica's pool) lacks; as
    `emu.capacity.capacities`. totals: [totals, …].
    """
    whole = dict(zip(totals_of(len(system.chip.memories)), totals, strict=True))
    ranks = system.ranks
    chips = system.chips_per_replica if ranks is None else 1
    per_chip = 1 if ranks is None else ranks.per_chip
    share = whole["largest_here"] / whole["largest"]
    alive = xp.minimum(whole["alive"], xp.ceil(whole["alive"] * share))
    found = []
    for m, memory in enumerate(system.chip.memories):
        kept = memory.capacity_bytes.value * system.software.reserve_share.value
        room = xp.floor(xp.floor(memory.capacity_bytes.value - kept) * chips / per_chip)
        held = whole[f"held/{m}"] + (alive if m == scratch else 0.0)
        # Whole again after interpolation: what is full to the last byte must not seem to be over.
        found.append((xp.round(held) - room) * per_chip)
    return tuple(found)


def _nothing(like: Run) -> Run:
    return Run(*[0.0 * field + value for field, value in zip(like, NOTHING, strict=True)])


def _either(xp: Any, condition: Array, this: Run, other: Run) -> Run:
    return Run(*[xp.where(condition, a, b) for a, b in zip(this, other, strict=True)])
