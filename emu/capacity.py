"""What there is room for: the pool of a replica's chips, or each rank of each pipeline stage.

A `Room` is a set of memories that is filled as one. Where no degree spreads the work, the chips of
a replica are one room, over which bytes spread evenly. Else every stage is a room, of which each of
its ranks has an equal copy: what the degrees leave of each leaf on a rank must fit in the rank's
share of its chip's memories, less what the stack keeps for itself (`Stack.reserve_share`). On a
chip that is a mesh of cores a layer lives on a region of them, which may begin on one chip and end
on the next: there all stages are one room, of which each chip holds an equal part.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from emu.ranks import Ranks
from emu.splits import Split
from emu.spreading import spread
from emu.stages import Stage
from emu.system import System
from emu.work import Leaf, Work


def bytes_of(leaf: Leaf, rows: range | None) -> int:
    """Bytes of some rows of a leaf's leading axis; the parts of a leaf add up to the leaf."""
    if rows is None:
        return leaf.bytes
    count, total = leaf.shape[0], leaf.bytes
    return total * rows.stop // count - total * rows.start // count


@dataclasses.dataclass(frozen=True, kw_only=True)
class Room:
    """See the module."""

    name: str  # of the stage; empty: the pool
    times: int  # how many there are of it in a replica
    capacity: dict[str, int]  # bytes, by memory
    held: Callable[[Leaf, range | None], int]  # bytes here of (rows of) a leaf
    alive: int  # bytes of activations alive at once


def rooms(work: Work, system: System, splits: Sequence[Split] = ()) -> tuple[Room, ...]:
    """The rooms of one replica. Raises EmuError as `emu.spread` does."""
    ranks = system.ranks
    if ranks is None:
        pool = system.chips_per_replica
        return (
            Room(
                name="",
                times=1,
                capacity=capacities(system, pool, 1),
                held=bytes_of,
                alive=work.peak_activation_bytes,
            ),
        )
    of = spread(work, system, splits)
    return stage_rooms(system, ranks, of.stages, of.rank_bytes, of.work.peak_activation_bytes)


def stage_rooms(
    system: System,
    ranks: Ranks,
    stages: Sequence[Stage],
    rank_bytes: Mapping[str, int],
    alive: int,
) -> tuple[Room, ...]:
    """A room for each stage, or one of even stages where these may end within a layer.

    ranks: of the system, or others that it might have.
    """
    capacity, times = capacities(system, 1, ranks.per_chip), ranks.stage

    def holder(stage: Stage) -> Callable[[Leaf, range | None], int]:
        return lambda leaf, rows: stage.held(leaf, rank_bytes[leaf.path], rows)

    count = len(stages)
    if count > 1 and system.chip.mesh is not None:

        def held(leaf: Leaf, rows: range | None) -> int:
            of_all = sum(stage.held(leaf, rank_bytes[leaf.path], rows) for stage in stages)
            return -(-of_all // count)

        return (
            Room(
                name=f"{count} even stages",
                times=times * count,
                capacity=capacity,
                held=held,
                alive=alive,
            ),
        )
    return tuple(
        Room(
            name=f"stage {at} of {count} ({stage})" if count > 1 else "all",
            times=times,
            capacity=capacity,
            held=holder(stage),
            alive=alive,
        )
        for at, stage in enumerate(stages)
    )


def capacities(system: System, chips: int, ranks_per_chip: int) -> dict[str, int]:
    """Bytes by memory of so many chips, or of a rank's part of one, less the stack's reserve."""
    found = {}
    for memory in system.chip.memories:
        kept = memory.capacity_bytes.value * system.software.reserve_share.value
        found[memory.name] = int(memory.capacity_bytes.value - kept) * chips // ranks_per_chip
    return found
