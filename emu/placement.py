"""Which weight lives in which memory, checked against what the memories hold."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal, get_args

from emu.chips import Memory
from emu.errors import CapacityError, EmuError
from emu.rules import Rule, assign, nearest, ordered
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
        if self.rows is None:
            return self.leaf.bytes
        count, total = self.leaf.shape[0], self.leaf.bytes
        return total * self.rows.stop // count - total * self.rows.start // count


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placement:
    """Every leaf's residency on a system, and what that takes of each memory."""

    system: System
    residencies: tuple[Residency, ...]
    bytes_by_memory: dict[str, int]  # over the chips of one replica
    excess_bytes: dict[str, int]  # what is over capacity, where `allow_overflow` let it be
    activations: str  # the memory through which activations go from kernel to kernel

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
) -> Placement:
    """Gives each leaf of `work` a memory of the system's chip.

    Args:
      work: its leaves, weights and (key paths under `cache/`) KV cache.
      system: the chips of one replica are taken as one pool, over which leaves spread evenly.
      rules: ordered `Rule`s (or pairs), or a policy. "on-chip" and "off-chip" take the fastest
        memory of that class; "fit" goes through the leaves in order, takes on chip each one that
        still fits there as a whole, and leaves the rest off chip.
      allow_overflow: record what is over in `excess_bytes` instead of raising CapacityError.
      activations: the memory (or class) through which activations go; None: the fastest one on
        chip that has room left for the most of them that are alive at once, else the fastest one
        off chip.

    Raises:
      EmuError: a leaf without a rule, a rule that matches nothing, an unknown memory or policy.
      CapacityError: more bytes than a memory has, with the most activations that are alive at
        once and the share that the stack keeps for itself (`Stack.reserve_share`).
    """
    if isinstance(rules, str):
        residencies = _by_policy(work, system, rules)
    else:
        residencies = _by_rules(work, system, ordered(rules))
    used = {memory.name: 0 for memory in system.chip.memories}
    for residency in residencies:
        used[residency.memory] += residency.bytes
    scratch = (
        _scratch(work, system, used)
        if activations is None
        else system.chip.memory(activations).name
    )
    excess = {}
    for memory in system.chip.memories:
        alive = work.peak_activation_bytes if memory.name == scratch else 0
        over = used[memory.name] + alive - _capacity(memory, system)
        if over > 0 and not allow_overflow:
            raise _does_not_fit(memory, system, used[memory.name], alive, over)
        if over > 0:
            excess[memory.name] = over
    return Placement(
        system=system,
        residencies=residencies,
        bytes_by_memory=used,
        excess_bytes=excess,
        activations=scratch,
    )


def _scratch(work: Work, system: System, used: dict[str, int]) -> str:
    """The memory for activations, where nobody named one."""
    memories = system.chip.memories
    near = [m for m in memories if m.placement == "on-chip"]
    far = [m for m in memories if m.placement == "off-chip"]
    roomy = (m for m in near if used[m.name] + work.peak_activation_bytes <= _capacity(m, system))
    return next(roomy, (far or near)[0]).name


def _by_rules(work: Work, system: System, rules: tuple[Rule, ...]) -> tuple[Residency, ...]:
    names = [system.chip.memory(rule.memory).name for rule in rules]
    placed: list[Residency] = []
    for share in assign(rules, work.leaves):
        memory = names[share.rule]
        before = placed[-1] if placed else None
        same = before and before.leaf is share.leaf and before.memory == memory
        if same and before and before.rows and share.rows:  # two rules sent neighbours to one place
            joined = range(before.rows.start, share.rows.stop)
            placed[-1] = dataclasses.replace(before, rows=joined)
        else:
            placed.append(Residency(leaf=share.leaf, memory=memory, rows=share.rows))
    return tuple(
        dataclasses.replace(r, rows=None) if r.rows and len(r.rows) == r.leaf.shape[0] else r
        for r in placed
    )


def _by_policy(work: Work, system: System, policy: str) -> tuple[Residency, ...]:
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
    free = _capacity(near, system)
    placed = []
    for leaf in work.leaves:
        fits = leaf.bytes <= free
        free -= leaf.bytes if fits else 0
        placed.append(Residency(leaf=leaf, memory=near.name if fits else far.name))
    return tuple(placed)


def _capacity(memory: Memory, system: System) -> int:
    """Bytes of all chips of a replica, less what the stack keeps for itself."""
    kept = memory.capacity_bytes.value * system.software.reserve_share.value
    return int(memory.capacity_bytes.value - kept) * system.chips_per_replica


def _does_not_fit(
    memory: Memory, system: System, used: int, alive: int, over: int
) -> CapacityError:
    capacity = _capacity(memory, system)
    chips = -(-(used + alive) * system.chips_per_replica // max(1, capacity)) * system.data
    reserve = system.software.reserve_share.value
    less = f" beside the {reserve:.1%} that {system.software.name} keeps" if reserve else ""
    with_alive = f", and {alive:,} of activations are alive at once" if alive else ""
    return CapacityError(
        f"{memory.name} ({memory.placement}) of {system.chips} x {system.chip.name} holds "
        f"{capacity:,} bytes{less} and {used:,} are placed there{with_alive}: {over:,} bytes over; "
        f"{chips} chips would do, or place less there"
    )


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
