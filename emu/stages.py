"""Pipeline stages: which layers, embedding and head live together, and what crosses between them.

The parts of a work in the order in which a token passes them: what comes before the layers, each
layer, what comes after. Layers are the turns of a loop over stacked leaves, or what reads leaves
numbered by a key path (`layers/12/…`). A leaf belongs to every part that touches it, so that an
embedding that is the head too is held by both ends. Stages are runs of neighbouring parts, as even
as can be: the fullest is as small as possible, then the next splits go where the most is held.
Stages need not have equally many parts, and what comes before the layers, or after, may have a
stage of its own.
"""

import collections
import dataclasses
import functools
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence

from emu.errors import EmuError
from emu.splits import is_stacked
from emu.work import Leaf, Op, Work

# A part of a key path that says which layers a leaf stacks, where a turn holds several of them.
_STACK = re.compile(r"(?<=/)\d+(:\d+)+(?=/)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """What is never cut in two: a layer, what comes before all of them, or after."""

    name: str
    first: int  # ops [first, stop) of the work; turns of one loop have the same ones
    stop: int
    end: int  # of the whole loop's body, where it is in one
    rows: Mapping[str, tuple[int, int] | None]  # of each leaf; None: all of it
    layer: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """A run of parts that lives on the ranks of one stage."""

    parts: tuple[Part, ...]

    @functools.cached_property
    def rows(self) -> dict[str, list[tuple[int, int]] | None]:
        """Which rows of each leaf are here; None: all."""
        found: dict[str, list[tuple[int, int]] | None] = {}
        for part in self.parts:
            for path, rows in part.rows.items():
                known = found.setdefault(path, [])
                if rows is None or known is None:
                    found[path] = None
                elif known and known[-1][1] == rows[0]:
                    known[-1] = (known[-1][0], rows[1])
                elif rows not in known:
                    known.append(rows)
        return found

    def held(self, leaf: Leaf, leaf_bytes: int, rows: range | None = None) -> int:
        """Bytes here of (rows of) a leaf of which a rank has `leaf_bytes` over all stages."""
        length = leaf.shape[0] if leaf.shape else 1
        wanted = rows if rows is not None else range(length)
        if leaf.path not in self.rows or not length:
            return 0
        here = self.rows[leaf.path]
        count = len(wanted)
        if here is not None:
            count = sum(max(0, min(b, wanted.stop) - max(a, wanted.start)) for a, b in here)
        return -(-leaf_bytes * count // length)

    def __str__(self) -> str:
        names = [part.name for part in self.parts]
        return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def parts_of(work: Work) -> tuple[Part, ...]:
    """A work's parts in the order in which a token passes them."""
    leaves = {leaf.path: leaf for leaf in work.leaves}
    numbers = _numbers(work.leaves)
    spans: list[tuple[object, int, int]] = []  # (which loop or layer, first op, stop)
    current: object = None
    at = 0
    for body in _bodies(work.ops):
        count = body[0].count
        turns = _turns(body, leaves)
        for op in body:
            current = ("loop", turns, count, at) if turns else _place(op, numbers, current)
            if spans and spans[-1][0] == current:
                spans[-1] = (current, spans[-1][1], spans[-1][2] + 1)
            else:
                start = spans[-1][2] if spans else 0
                spans.append((current, start, start + 1))
        at += len(body)
    parts: list[Part] = []
    for key, first, stop in spans:
        before = sum(part.layer for part in parts)
        parts += _parts(key, work.ops, first, stop, leaves, before)
    untouched = {path: None for path in leaves if not any(path in part.rows for part in parts)}
    if parts and untouched:
        rest = parts[0].rows | untouched  # type: ignore[operator]
        parts[0] = dataclasses.replace(parts[0], rows=rest)
    return tuple(parts)


def _bodies(ops: Sequence[Op]) -> Iterator[tuple[Op, ...]]:
    """Runs of ops that one loop may have made: they run equally often, and stacks of layers that
    follow one another, as of 0:3 and 3:6, are of two loops (0:6:2 and 1:6:2 take turns in one).
    What a loop does before it reads a weight stays with the one before it then.
    """
    for _, run in itertools.groupby(ops, key=lambda op: op.count):
        body: list[Op] = []
        end: int | None = None
        for op in run:
            if layers := _stack_of(op):
                first, stop, *_ = map(int, layers.split(":"))
                if end is not None and first >= end:
                    yield tuple(body)
                    body = []
                end = stop
            body.append(op)
        yield tuple(body)


def _stack_of(op: Op) -> str | None:
    """Which layers the weights are of that an op reads, where leaves say so: `0:3`, `1:48:4`."""
    named = (access.tensor for access in op.reads if access.kind == "weights")
    return next((found[0] for path in named if (found := _STACK.search(path))), None)


def _numbers(leaves: Sequence[Leaf]) -> dict[str, tuple[str, int]]:
    """Of leaves under a numbered prefix that has several members: which prefix, which member."""
    members: dict[str, set[int]] = collections.defaultdict(set)
    found: dict[str, tuple[str, int]] = {}
    for leaf in leaves:
        if leaf.kind != "weights":
            continue
        names = leaf.path.split("/")
        for at, name in enumerate(names):
            if name.isdecimal():
                prefix = "/".join(names[:at])
                members[prefix].add(int(name))
                found[leaf.path] = (prefix, int(name))
                break
    return {path: key for path, key in found.items() if len(members[key[0]]) > 1}


def _place(op: Op, numbers: Mapping[str, tuple[str, int]], current: object) -> object:
    """Which numbered layer, or which end, an op outside of loops belongs to."""
    for access in op.reads:
        if access.tensor in numbers:
            return numbers[access.tensor]
    in_layer = isinstance(current, tuple) and current[0] != "loop"
    if in_layer and not any(access.kind == "weights" for access in op.reads):
        return current
    return "before" if current in (None, "before") else "after"


def _turns(body: Sequence[Op], leaves: Mapping[str, Leaf]) -> int:
    """Turns of the loop over stacked leaves that these ops are the body of; 0: of none."""
    for op in body:
        if op.count < 2:
            return 0
        for access in (*op.reads, *op.writes):
            leaf = leaves.get(access.tensor)
            if leaf is not None and access.rows is not None and is_stacked(op, access, leaf):
                return access.rows[1] - access.rows[0]
    return 0


def _parts(
    key: object, ops: Sequence[Op], first: int, stop: int, leaves: Mapping[str, Leaf], before: int
) -> list[Part]:
    if isinstance(key, tuple) and key[0] == "loop":
        groups = _groups(ops, first, stop)
        return [
            Part(
                name=f"layer {before + turn * len(groups) + at}",
                first=begin,
                stop=end,
                end=stop,
                rows={
                    path: _row(rows, turn, key[1])
                    for path, rows in _touched(ops[begin:end], leaves).items()
                },
            )
            for turn in range(key[1])
            for at, (begin, end) in enumerate(groups)
        ]
    name = key if isinstance(key, str) else "/".join(map(str, key))  # type: ignore[call-overload]
    return [
        Part(
            name={"before": "the input", "after": "the output"}.get(name, name),
            first=first,
            stop=stop,
            end=stop,
            rows=_touched(ops[first:stop], leaves),
            layer=not isinstance(key, str),
        )
    ]


def _touched(ops: Sequence[Op], leaves: Mapping[str, Leaf]) -> dict[str, tuple[int, int] | None]:
    """The leaves that ops touch, and which rows in all; None: the whole leaf."""
    touched: dict[str, tuple[int, int] | None] = {}
    for op in ops:
        for access in (*op.reads, *op.writes):
            leaf = leaves.get(access.tensor)
            if leaf is not None:
                looped = op.count > 1 and is_stacked(op, access, leaf)
                touched.setdefault(access.tensor, access.rows if looped else None)
    return touched


def _groups(ops: Sequence[Op], first: int, stop: int) -> list[tuple[int, int]]:
    """The layers that one turn of a loop holds: those of leaves of `layers/0:48:4/…`, in order."""
    starts = [first]
    current = None
    for at in range(first, stop):
        group = _stack_of(ops[at]) or current
        if current is not None and group != current:
            starts.append(at)
        current = group
    return list(itertools.pairwise([*starts, stop]))


def _row(rows: tuple[int, int] | None, turn: int, turns: int) -> tuple[int, int] | None:
    if rows is None:
        return None
    each = (rows[1] - rows[0]) // turns
    return rows[0] + turn * each, rows[0] + (turn + 1) * each


def stages_of(
    parts: Sequence[Part], leaf_bytes: Mapping[str, int], leaves: Sequence[Leaf], count: int
) -> tuple[Stage, ...]:
    """The parts in `count` stages.

    Args:
      parts: from `parts_of`.
      leaf_bytes: of each leaf, what one rank has of it over all stages.
      leaves: the work's.
      count: pipeline stages.

    Raises:
      EmuError: fewer parts than stages.
    """
    if count == 1:
        return (Stage(parts=tuple(parts)),)
    _each_once(parts)
    holding = [part for part in parts if part.rows]
    if count > len(holding):
        layers = sum(part.layer for part in parts)
        raise EmuError(
            f"spread: pipeline={count} stages, and there are {layers} layers"
            + (f" ({len(holding)} with what is before and after)" if layers else "")
            + f"; take at most pipeline={len(holding)}"
        )
    by_path = {leaf.path: leaf for leaf in leaves}
    sizes = [
        sum(
            Stage(parts=(part,)).held(by_path[path], leaf_bytes[path]) if rows else leaf_bytes[path]
            for path, rows in part.rows.items()
        )
        for part in holding
    ]
    cuts = even_cuts(sizes, count)
    groups = [holding[a:b] for a, b in itertools.pairwise(cuts)]
    where = {id(part): at for at, group in enumerate(groups) for part in group}
    made: list[list[Part]] = [[] for _ in groups]
    at = 0
    for part in parts:  # those that hold nothing go with what stands before them
        at = where.get(id(part), at)
        made[at].append(part)
    return tuple(Stage(parts=tuple(group)) for group in made)


def _each_once(parts: Sequence[Part]) -> None:
    """Raises EmuError where layers are passed twice, as in a sum of works."""
    seen: set[object] = set()
    last = ""
    for part in (part for part in parts if part.layer):
        rows: dict[object, str] = {(p, rows): p for p, rows in part.rows.items() if rows}
        if part.name != last and not rows:  # a numbered layer
            rows = {part.name: part.name}
        if twice := sorted(rows[key] for key in rows.keys() & seen):
            raise EmuError(
                f"spread: the work passes {twice[0]!r} more than once, as sums of works do, and "
                "pipeline>1 needs to know each pass; spread and predict the works one by one"
            )
        seen |= rows.keys()
        last = part.name


def even_cuts(sizes: Sequence[int], count: int) -> list[int]:
    """Where to cut a row of sizes into `count` runs, none empty, whose largest is smallest.

    Returns `count` + 1 positions, from 0 to the number of sizes. Among equally good cuts the one
    that splits the largest runs first.
    """
    low, high = max(sizes), sum(sizes)
    while low < high:
        middle = (low + high) // 2
        if len(_filled(sizes, middle)) - 1 <= count:
            high = middle
        else:
            low = middle + 1
    cuts = _filled(sizes, low)
    while len(cuts) - 1 < count:
        runs = [(sum(sizes[a:b]), -a, b) for a, b in itertools.pairwise(cuts) if b - a > 1]
        _, start, stop = max(runs)
        cuts = sorted([*cuts, _middle(sizes, -start, stop)])
    return cuts


def _filled(sizes: Sequence[int], most: int) -> list[int]:
    """Cuts of runs that are filled up to `most`, one after the other."""
    cuts, held = [0], 0
    for at, size in enumerate(sizes):
        if held + size > most and at > cuts[-1]:
            cuts.append(at)
            held = 0
        held += size
    return [*cuts, len(sizes)]


def _middle(sizes: Sequence[int], start: int, stop: int) -> int:
    """Where to cut one run in two so that the larger half is smallest."""
    return min(
        range(start + 1, stop),
        key=lambda at: max(sum(sizes[start:at]), sum(sizes[at:stop])),
    )
