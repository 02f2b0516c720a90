"""Which memory each leaf goes to by rules or a policy, and which rooms that overfills."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, get_args

from emu.capacity import Room, bytes_of
from emu.errors import EmuError
from emu.rules import Rule, assign, ordered
from emu.splits import stacked_paths
from emu.system import System
from emu.work import Leaf, Work

Policy = Literal["on-chip", "off-chip", "fit"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Residency:
    """Where one leaf, or some rows of a stacked leaf, lives."""

    leaf: Leaf
    memory: str
    rows: range | None = None  # of the leading axis; None: the whole leaf

    @property
    def bytes(self) -> int:
        """Bytes of this part; the parts of a leaf add up to the leaf."""
        return bytes_of(self.leaf, self.rows)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Filled:
    """Rooms with what rules or a policy put into them."""

    rooms: tuple[Room, ...]
    residencies: tuple[Residency, ...]
    used: tuple[dict[str, int], ...]  # bytes by room and memory
    scratch: str
    over: tuple[tuple[str, int, int], ...]  # (memory, number of the room, bytes over)


def fill(
    work: Work,
    system: System,
    rules: Sequence[Rule | Sequence[str]] | Policy | str,
    rooms: tuple[Room, ...],
    activations: str | None = None,
) -> Filled:
    """Puts each leaf where the rules say, and sees what is over in which room."""
    if isinstance(rules, str):
        residencies = _by_policy(work, system, rules, rooms)
    else:
        residencies = _by_rules(work, system, ordered(rules))
    used = tuple({memory.name: 0 for memory in system.chip.memories} for _ in rooms)
    for residency in residencies:
        for room, held in zip(rooms, used, strict=True):
            held[residency.memory] += room.held(residency.leaf, residency.rows)
    scratch = (
        _scratch(system, rooms, used)
        if activations is None
        else system.chip.memory(activations).name
    )
    over = []
    for memory in system.chip.memories:
        for at, (room, held) in enumerate(zip(rooms, used, strict=True)):
            alive = room.alive if memory.name == scratch else 0
            excess = held[memory.name] + alive - room.capacity[memory.name]
            if excess > 0:
                over.append((memory.name, at, excess))
    return Filled(
        rooms=rooms, residencies=residencies, used=used, scratch=scratch, over=tuple(over)
    )


def _scratch(system: System, rooms: Sequence[Room], used: Sequence[dict[str, int]]) -> str:
    """The memory for activations, where nobody named one."""
    memories = system.chip.memories
    near = [m for m in memories if m.placement == "on-chip"]
    far = [m for m in memories if m.placement == "off-chip"]
    roomy = (
        m
        for m in near
        if all(
            held[m.name] + room.alive <= room.capacity[m.name]
            for room, held in zip(rooms, used, strict=True)
        )
    )
    return next(roomy, (far or near)[0]).name


def _by_rules(work: Work, system: System, rules: tuple[Rule, ...]) -> tuple[Residency, ...]:
    names = [system.chip.memory(rule.memory).name for rule in rules]
    return _joined(
        Residency(leaf=share.leaf, memory=names[share.rule], rows=share.rows)
        for share in assign(rules, work.leaves)
    )


def _joined(parts: Iterable[Residency]) -> tuple[Residency, ...]:
    """Leaf by leaf, neighbouring rows in one memory as one part, and all rows as the whole leaf."""
    of_leaf: dict[str, list[Residency]] = {}
    for part in parts:
        found = of_leaf.setdefault(part.leaf.path, [])
        before = found[-1] if found else None
        if before and before.memory == part.memory and before.rows and part.rows:
            found[-1] = dataclasses.replace(before, rows=range(before.rows.start, part.rows.stop))
        else:
            found.append(part)
    return tuple(
        dataclasses.replace(r, rows=None) if r.rows and len(r.rows) == r.leaf.shape[0] else r
        for found in of_leaf.values()
        for r in found
    )


def _by_policy(
    work: Work, system: System, policy: str, rooms: Sequence[Room]
) -> tuple[Residency, ...]:
    chip = system.chip
    if policy not in get_args(Policy):
        known = ", ".join(get_args(Policy))
        raise EmuError(f"unknown policy {policy!r}: take one of {known}, or a list of rules")
    if policy != "fit":
        name = chip.memory(policy).name
        return tuple(Residency(leaf=leaf, memory=name) for leaf in work.leaves)
    near = chip.memory("on-chip")
    # A chip without off-chip memory keeps everything on chip; place() says by how much it is over.
    has_far = any(memory.placement == "off-chip" for memory in chip.memories)
    far = chip.memory("off-chip") if has_far else near
    free = [room.capacity[near.name] for room in rooms]
    placed = []
    for leaf, rows in _pieces(work, in_rows=near.mechanism is None):
        needed = [room.held(leaf, rows) for room in rooms]
        fits = all(n <= left for n, left in zip(needed, free, strict=True))
        if fits:
            free = [left - n for n, left in zip(needed, free, strict=True)]
        placed.append(Residency(leaf=leaf, memory=near.name if fits else far.name, rows=rows))
    return _joined(placed)


def _pieces(work: Work, *, in_rows: bool) -> Iterator[tuple[Leaf, range | None]]:
    """What "fit" takes or leaves as one, in its order: leaves, of stacked ones layer after layer
    (`in_rows`), as if each layer's were leaves of their own.
    """
    stacked = stacked_paths(work) if in_rows else frozenset()

    def layers(leaf: Leaf) -> int:
        return leaf.shape[0] if leaf.path in stacked else 0

    for (_, count), group in itertools.groupby(work.leaves, lambda leaf: (leaf.kind, layers(leaf))):
        alike = tuple(group)
        if count:
            yield from ((leaf, range(i, i + 1)) for i in range(count) for leaf in alike)
        else:
            yield from ((leaf, None) for leaf in alike)
