"""Which weight lives in which memory, checked against what the memories hold."""

import dataclasses
from collections.abc import Iterator, Sequence

from emu.capacity import Room, capacities, rooms
from emu.chips import Memory
from emu.errors import CapacityError, EmuError, check_types
from emu.filling import Filled, Policy, Residency, fill
from emu.ranks import Ranks
from emu.rules import Rule, nearest
from emu.smallest import smallest
from emu.splits import Split
from emu.system import System
from emu.work import Work

__all__ = ["Placement", "Policy", "Residency", "place"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placement:
    """Every leaf's residency on a system, and what that takes of each memory."""

    system: System
    residencies: tuple[Residency, ...]
    bytes_by_memory: dict[str, int]  # over the chips of one replica
    excess_bytes: dict[str, int]  # what is over capacity, where `allow_overflow` let it be
    activations: str  # the memory through which activations go from kernel to kernel
    # Bytes on each rank of each room (`emu.capacity`), by memory; (): a replica's chips are a pool.
    rank_bytes: tuple[dict[str, int], ...] = ()
    splits: tuple[Split, ...] = ()  # what `emu.spread` was told besides the work

    def memories_of(self, path: str) -> tuple[str, ...]:
        """The memories in which the leaf of this key path lives, in the order of its rows."""
        found = tuple(r.memory for r in self.residencies if r.leaf.path == path)
        if not found:
            paths = (r.leaf.path for r in self.residencies)
            raise EmuError(f"the placement has no leaf {path!r}" + nearest(path, paths))
        return found

    def bytes_in(self, memory: str) -> int:
        """Bytes placed in a memory of this name, or in all memories of this class."""
        self.system.chip.memory(memory)  # an unknown name is an error
        return sum(
            self.bytes_by_memory[m.name]
            for m in self.system.chip.memories
            if memory in (m.name, m.placement)
        )

    @property
    def fullest_chip_bytes(self) -> dict[str, int]:
        """Bytes on the chip that holds the most, by memory."""
        ranks = self.system.ranks
        if ranks is None:
            pool = self.system.chips_per_replica
            return {name: -(-held // pool) for name, held in self.bytes_by_memory.items()}
        return {
            name: ranks.per_chip * max(held[name] for held in self.rank_bytes)
            for name in self.bytes_by_memory
        }

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of figures made with this placement has to know."""
        return tuple(_notes(self))

    def __str__(self) -> str:
        """A table: a line for each kind of leaf in each memory, then what each memory holds."""
        lines = [f"{self.system.chip.name}, {self.system.chips} x"]
        for (pattern, memory), parts in _grouped(self.residencies).items():
            total = sum(part.bytes for part in parts)
            times = f" x{len(parts)}" if len(parts) > 1 else ""
            lines.append(f"  {pattern + times:<48} {memory:<12} {total / 1e6:>12,.3f} MB")
        for of in self.system.chip.memories:
            held, capacity = self.bytes_by_memory[of.name], _capacity(of, self.system)
            lines.append(
                f"  {of.name} ({of.placement}): {held / 1e6:,.3f} of {capacity / 1e6:,.3f} MB"
            )
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def place(
    work: Work,
    system: System,
    rules: Sequence[Rule | Sequence[str]] | Policy | str,
    allow_overflow: bool = False,
    activations: str | None = None,
    splits: Sequence[Split] = (),
) -> Placement:
    """Gives each leaf of `work` a memory of the system's chip.

    Args:
      work: its leaves, weights and (key paths under `cache/`) KV cache; of all replicas' batch
        where degrees spread it.
      system: where its degrees spread the work (`emu.spread`), what they leave on each chip is what
        must fit; else the chips of one replica are one pool, over which leaves spread evenly.
      rules: ordered `Rule`s (or pairs), or a policy. "on-chip" and "off-chip" take the fastest
        memory of that class; "fit" goes through the leaves in order, takes on chip each one that
        still fits there, and leaves the rest off chip. Leaves that a loop of the work walks row by
        row (stacked layers) are taken layer after layer, all others whole; on a machine of one's
        own (memories with a `mechanism`) these too, since `emu.realize` joins no parts.
      allow_overflow: record what is over in `excess_bytes` instead of raising CapacityError.
      activations: the memory (or class) through which activations go; None: the fastest one on
        chip that has room left for the most of them that are alive at once, else the fastest one
        off chip.
      splits: rules of how single leaves are split over ranks, as for `emu.spread`.

    Raises:
      EmuError: a leaf without a rule, a rule that matches nothing, an unknown memory or policy, a
        split that cannot be made.
      CapacityError: more bytes than a memory has, with the most activations that are alive at
        once and the share that the stack keeps for itself (`Stack.reserve_share`); it names the
        smallest number of chips, and the split over them, that would do.
    """
    check_types("place", work=(work, Work), system=(system, System))
    splits = tuple(splits)
    filled = fill(work, system, rules, rooms(work, system, splits), activations)
    if filled.over and not allow_overflow:
        raise _does_not_fit(work, system, rules, splits, activations, filled)
    names = [memory.name for memory in system.chip.memories]
    excess: dict[str, int] = {}
    for memory, room, over in filled.over:
        excess[memory] = excess.get(memory, 0) + over * filled.rooms[room].times
    used = list(zip(filled.rooms, filled.used, strict=True))
    return Placement(
        system=system,
        residencies=filled.residencies,
        bytes_by_memory={n: sum(room.times * held[n] for room, held in used) for n in names},
        excess_bytes={name: excess[name] for name in names if name in excess},
        activations=filled.scratch,
        rank_bytes=() if system.ranks is None else filled.used,
        splits=splits,
    )


def _capacity(memory: Memory, system: System) -> int:
    """Bytes of all chips of a replica, less what the stack keeps for itself."""
    return capacities(system, system.chips_per_replica, 1)[memory.name]


def _does_not_fit(
    work: Work,
    system: System,
    rules: Sequence[Rule | Sequence[str]] | Policy | str,
    splits: tuple[Split, ...],
    activations: str | None,
    filled: Filled,
) -> CapacityError:
    name = filled.over[0][0]
    _, at, over = max((o for o in filled.over if o[0] == name), key=lambda o: o[2])
    room, used, memory = filled.rooms[at], filled.used[at][name], system.chip.memory(name)
    alive = room.alive if name == filled.scratch else 0
    capacity, ranks = room.capacity[name], system.ranks
    reserve = system.software.reserve_share.value
    less = f" beside the {reserve:.1%} that {system.software.name} keeps" if reserve else ""
    with_alive = f", and {alive:,} of activations are alive at once" if alive else ""
    if ranks is None:
        where = f"{system.chips} x {system.chip.name}"
        chips = -(-(used + alive) * system.chips_per_replica // max(1, capacity)) * system.data
        way_out = f"{chips} chips would do"
    else:
        where = _each(system, ranks, room)
        found = smallest(work, system, rules, splits, activations)
        way_out = f"{found} would do" if found else "no split of it over more chips would do"
    return CapacityError(
        f"{memory.name} ({memory.placement}) of {where} holds {capacity:,} bytes{less} and "
        f"{used:,} are placed there{with_alive}: {over:,} bytes over; {way_out}, or place less "
        "there"
    )


def _each(system: System, ranks: Ranks, room: Room) -> str:
    one = "each" if ranks.per_chip == 1 else f"each of {ranks.per_chip} cores of each"
    stage = "" if room.name == "all" else f" of {room.name}"
    return f"{one} {system.chip.name}{stage}"


def _notes(placement: Placement) -> Iterator[str]:
    for name, over in placement.excess_bytes.items():
        yield f"{name} is over capacity by {over / 1e6:,.1f} MB, as was allowed"
    rotated = [m for m in placement.system.chip.memories if m.mechanism == "rotation"]
    caches = [memory for memory in rotated if memory.placement == "on-chip"]
    if not caches:
        return
    cache, used = caches[0], placement.bytes_by_memory
    capacity = _capacity(cache, placement.system)
    near, far = used[cache.name], sum(used[m.name] for m in rotated if m.placement == "off-chip")
    if near and far and near <= capacity < near + far:
        yield (
            f"{cache.name} is a cache: each step's {far / 1e6:,.1f} MB from off chip pass through "
            f"it and with the {near / 1e6:,.1f} MB meant to stay exceed its "
            f"{capacity / 1e6:,.1f} MB, so that a part of those is evicted at each step"
        )


def _grouped(residencies: Sequence[Residency]) -> dict[tuple[str, str], list[Residency]]:
    groups: dict[tuple[str, str], list[Residency]] = {}
    for residency in residencies:
        parts = residency.leaf.path.split("/")
        pattern = "/".join("*" if part.isdecimal() else part for part in parts)
        if residency.rows is not None:
            pattern += f"[{residency.rows.start}:{residency.rows.stop}]"
        groups.setdefault((pattern, residency.memory), []).append(residency)
    return groups
