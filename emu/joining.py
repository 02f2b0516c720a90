"""One numbering of logical axes for two works that are done one after the other.

The works hold the same leaves, whose dimensions walk the same entries in both: their axes are
unified through these, and cut to match where one work cuts finer. All others stay apart.
"""

import dataclasses
from collections.abc import Sequence

from emu.axes import Factors, Ids, together
from emu.work import Access, Axis, Leaf, Op, Work


@dataclasses.dataclass(frozen=True, kw_only=True)
class Joined:
    """Two works' leaves and ops under common axes."""

    leaves: tuple[tuple[Leaf, ...], tuple[Leaf, ...]]
    ops: tuple[tuple[Op, ...], tuple[Op, ...]]
    axes: tuple[Axis, ...]


def joined(first: Work, second: Work) -> Joined:
    """Both works renumbered; as they are, where they have the same axes already."""
    shared = {leaf.path: leaf for leaf in second.leaves}
    pairs = [
        (leaf, shared[leaf.path])
        for leaf in first.leaves
        if leaf.path in shared and leaf.shape == shared[leaf.path].shape
    ]
    if first.axes == second.axes and all(a.axes == b.axes for a, b in pairs):
        return Joined(
            leaves=(first.leaves, second.leaves), ops=(first.ops, second.ops), axes=first.axes
        )
    factors = Factors()
    ids = [[factors.new(axis.size) for axis in work.axes] for work in (first, second)]
    for a, b in pairs:
        if a.axes and b.axes:
            for one, other in zip(a.axes, b.axes, strict=True):
                factors.unify(_of(ids[0], one), _of(ids[1], other))
    axes: list[Axis] = []
    numbers: dict[int, int] = {}
    renumbered: list[list[Ids]] = []
    for work, of_work in zip((first, second), ids, strict=True):
        found: list[Ids] = []
        for axis, own in zip(work.axes, of_work, strict=True):
            atoms = factors.atoms(own)
            for place, atom in enumerate(atoms):
                if atom not in numbers:
                    numbers[atom] = len(axes)
                    name = f"{axis.name}.{place}" if len(atoms) > 1 else axis.name
                    axes.append(Axis(size=factors.size((atom,)), name=name))
            found.append(tuple(numbers[atom] for atom in atoms))
        renumbered.append(found)
    ours, theirs = renumbered
    return Joined(
        leaves=(
            tuple(_leaf(leaf, ours) for leaf in first.leaves),
            tuple(_leaf(leaf, theirs) for leaf in second.leaves),
        ),
        ops=(tuple(_op(op, ours) for op in first.ops), tuple(_op(op, theirs) for op in second.ops)),
        axes=tuple(axes),
    )


def _of(numbers: Sequence[Ids], axes: Ids) -> Ids:
    return tuple(i for axis in axes for i in numbers[axis])


def _leaf(leaf: Leaf, numbers: Sequence[Ids]) -> Leaf:
    return dataclasses.replace(leaf, axes=tuple(_of(numbers, axes) for axes in leaf.axes))


def _op(op: Op, numbers: Sequence[Ids]) -> Op:
    return dataclasses.replace(
        op,
        reads=tuple(_access(a, numbers) for a in op.reads),
        writes=tuple(_access(a, numbers) for a in op.writes),
        axes=together([_of(numbers, op.axes)]),
        summed=together([_of(numbers, op.summed)]),
        indexed=together([_of(numbers, op.indexed)]),
        whole=together([_of(numbers, op.whole)]),
    )


def _access(access: Access, numbers: Sequence[Ids]) -> Access:
    return dataclasses.replace(access, axes=together([_of(numbers, access.axes)]))
