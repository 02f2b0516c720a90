"""What of a prediction does not depend on the system's numbers, made once and kept.

A work that a system's degrees spread over ranks is first made that of one rank (`emu.spreading`).

A `Plan` is a schedule with its bytes summed up by port: a memory's port carries its own bytes and
those of every slower memory behind it that is reached in the same way. It is kept for as long as
its work and its placement live.
"""

from typing import Any, NamedTuple

import numpy as np

from emu.counted import (
    layers_of_experts,
    starts_late,
    tokens_given,
    unpacked,
    with_all_experts,
    with_repeated_heads,
)
from emu.curves import Reads, reads_of
from emu.kept import Kept
from emu.linear import Linear, linear_of
from emu.lookahead import Moves, moves_of
from emu.mesh import Regions, regions
from emu.placement import Placement
from emu.schedule import Schedule, schedule
from emu.spreading import spread
from emu.system import System
from emu.work import Work


class Plan(NamedTuple):
    """What of a (work, placement) does not depend on the system's numbers."""

    schedule: Schedule
    # [memories, 2, rows]: through each port when a kernel runs (not ahead of it), and in all
    port_bytes: Any
    off_chip: tuple[int, ...]  # ports that fetch weights ahead
    # By such a port [rows, 2]: bytes that it may be ahead by when a row begins, and when it ends
    ahead: dict[int, Any]
    moves: dict[int, Moves]  # by such a port: those rows as few steps of its lead
    touched: Any  # [memories, rows]: whether it is waited for, which weights read ahead are not
    faster: tuple[tuple[int, ...], ...]  # of each memory, those that it passes through
    longest: int  # rows in a run, filled up to a power of two
    run_repeats: Any  # filled up to a power of two
    regions: Regions | None  # on a chip that is a mesh of cores
    cache_bytes: Any  # [memories, 1, rows]: of the cache alone, through each port
    unpacked: Any  # [rows]: weights that products have to unpack (`emu.counted.unpacked`)
    starts_late: Any  # [rows] of 0 and 1: whether products take such weights
    unpacks: bool  # whether any do
    linear: Linear  # all these counts for one product
    reads: Reads  # of products, for memories measured by size of read
    tokens: int  # that the step gives, on one replica
    routed_layers: int  # layers of experts
    traffic: dict[str, int]
    notes: tuple[str, ...]


_plans: Kept[Plan] = Kept()


def plan_of(work: Work, placement: Placement, depth: int | None) -> Plan:
    """The plan of a placed work, for a stack that looks `depth` kernels ahead (None: any)."""
    plan = _plans.find(work, placement, by=depth)
    if plan is None:
        plan = _plans.keep(_planned(work, placement, depth), work, placement, by=depth)
    return plan


def _planned(work: Work, placement: Placement, depth: int | None) -> Plan:
    routed_layers = layers_of_experts(work)
    if placement.system.software.repeats_heads:
        work = with_repeated_heads(work)
    if placement.system.ranks is None:
        work = with_all_experts(work) if placement.system.software.all_experts else work
    else:
        work = spread(work, placement.system, placement.splits).work
    whole = of = schedule(work, placement, depth)
    on_mesh = None
    if placement.system.chip.mesh is not None:
        on_mesh, of = regions(whole, work, placement.system.pipeline)
    dtypes = {leaf.path: leaf.dtype for leaf in work.leaves}
    memories = placement.system.chip.memories
    through = np.array(
        [
            [float(j <= i and memories[j].mechanism == m.mechanism) for j in range(len(memories))]
            for i, m in enumerate(memories)
        ]
    )
    repeats = np.ones(_power_of_two(len(of.runs)))
    repeats[: len(of.runs)] = [run.repeats for run in of.runs]
    carried = of.bytes @ through
    off_chip = tuple(
        i
        for i, m in enumerate(memories)
        if m.placement == "off-chip" and depth != 0 and carried[0, :, i].any()
    )
    at_run = np.array([i not in off_chip for i in range(len(memories))], np.float64)
    begin, end = of.ahead_at_begin @ through, of.ahead_at_end @ through
    ahead = {j: np.stack((begin[:, j], end[:, j]), axis=1) for j in off_chip}
    chip = placement.system.chip
    unpacking = np.array([unpacked(row, dtypes, chip) for row in of.rows])
    late = np.array([float(starts_late(row, dtypes)) for row in of.rows])
    moved = (whole.times @ whole.bytes.sum(0)) * _at_once(placement.system)
    through_ports = np.array((carried[1:].sum(0) + carried[0] * at_run, carried.sum(0)))
    port_bytes, cache_bytes = through_ports.transpose(2, 0, 1), carried[1].T[:, None]
    touched = (of.bytes[0 if depth == 0 else 1 :].sum(0) > 0).T.astype(np.float64, order="C")
    return Plan(
        schedule=of,
        port_bytes=port_bytes,
        off_chip=off_chip,
        ahead=ahead,
        moves={j: moves_of(of.runs, ahead[j], carried[0, :, j] > 0) for j in off_chip},
        touched=touched,
        faster=tuple(tuple(j for j in range(i) if through[i, j]) for i in range(len(memories))),
        longest=_power_of_two(max(run.stop - run.start for run in of.runs)),
        run_repeats=repeats,
        regions=on_mesh,
        cache_bytes=cache_bytes,
        unpacked=unpacking,
        starts_late=late,
        unpacks=bool(late.any()),
        linear=linear_of(
            of,
            port_bytes=port_bytes,
            off_chip=off_chip,
            cache_bytes=cache_bytes,
            entering=of.bytes[:2].sum((0, 2)),
            unpacked=unpacking,
            starts_late=late,
            touched=touched,
        ),
        reads=reads_of(of, placement),
        tokens=tokens_given(work),
        routed_layers=routed_layers,
        traffic={m.name: round(float(n)) for m, n in zip(memories, moved, strict=True)},
        notes=(*of.notes, *placement.notes),
    )


def _at_once(system: System) -> int:
    """Ranks that each move what one does: a token crosses the stages of a pipeline in turn."""
    return system.chips if system.ranks is None else system.ranks.count // system.pipeline


def _power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()
