"""Which logical axes tensor ranks split, found from the work itself, and rules that override it.

A layer's weights come in pairs: a matrix whose output is split over ranks, and one that sums over
that output, after which the ranks' partial sums are added. So an axis is worth splitting where one
weight matrix produces it and another sums it away (heads, the inner width of an MLP), where rows
are looked up along it (the vocabulary), or where the last product of all produces it (the head).
Of these, axes are taken by the bytes of the matrices that hold them, the most first, and one is
left out if a matrix that holds it is split already: so MLA's low-rank projections and their latents
stay whole on every rank. The residual axis, which the most matrices share, is never split, nor are
layers, the batch, a head's width, or axes that an op needs whole (a router's scores).

A dimension that is a product of axes is split major first: heads that share keys and values in
groups by key-value head first, and the rest within the group, so that where ranks exceed key-value
heads these and their cache are held several times. Experts are spread over expert ranks, and an
expert's inner width over the ranks that share it (`emu.ranks`).
"""

import collections
import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

from emu.errors import EmuError
from emu.patterns import Members, match, parse
from emu.ranks import Ranks
from emu.rules import nearest
from emu.work import Access, Leaf, Op, Work


@dataclasses.dataclass(frozen=True)
class Split:
    """Tensor ranks split dimension `dim` of leaves whose key path matches; None: each has all.

    Of ordered splits the first that matches a leaf decides; leaves that none matches are split as
    the work itself suggests.
    """

    pattern: str
    dim: int | None

    def __post_init__(self) -> None:
        if any(segment.index is not None for segment in parse(self.pattern)):
            raise EmuError(
                f"split {self.pattern!r}: a split is of whole leaves; leave the [index] out"
            )
        if self.dim is not None and (not isinstance(self.dim, int) or isinstance(self.dim, bool)):
            raise EmuError(f"split {self.pattern!r}: dim is a dimension or None, not {self.dim!r}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Axes:
    """What is known of a work's axes by how they are used."""

    residual: frozenset[int]
    batch: int | None
    layers: frozenset[int]
    expert_dims: tuple[tuple[int, ...], ...]  # the axes of dimensions of experts
    routed: frozenset[str]  # leaves of which a router picks rows

    @functools.cached_property
    def experts(self) -> frozenset[int]:
        """All axes of experts, which may come in groups."""
        return frozenset(axis for dim in self.expert_dims for axis in dim)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chosen:
    """By how much each axis is split, and what rules say of single leaves."""

    axes: Axes
    degrees: Mapping[int, int]  # by axis, `data` and `expert` included
    sizes: Mapping[int, int]  # of those axes
    summing: frozenset[int]  # the axes whose split leaves partial sums or shards to be exchanged
    whole: frozenset[str]  # leaves that a rule keeps whole
    sharers: Mapping[str, int]  # by cache leaf: ranks that have each its share of the sequences
    notes: tuple[str, ...] = ()

    @functools.cached_property
    def shares(self) -> dict[int, int | Fraction]:
        """By axis, how many times less the fullest rank has: less than the degree if padded."""
        found: dict[int, int | Fraction] = {}
        for axis, degree in self.degrees.items():
            share = Fraction(self.sizes[axis], -(-self.sizes[axis] // degree))
            found[axis] = share.numerator if share.denominator == 1 else share
        return found

    def of(self, axes: Iterable[int]) -> int | Fraction:
        """How many times less of a tensor over these axes the fullest rank has."""
        share: int | Fraction = 1
        for axis in set(axes):
            share *= self.shares.get(axis, 1)
        return share

    def ranks(self, axes: Iterable[int]) -> int:
        """Over how many ranks these axes are split."""
        return math.prod(self.degrees.get(axis, 1) for axis in set(axes))

    def shape(self, leaf: Leaf) -> tuple[int, ...]:
        """A leaf's shape on the fullest rank."""
        if not leaf.axes:
            return leaf.shape
        return tuple(
            -(-n // math.prod(self.leaf_share(leaf.path, axis) for axis in axes))
            for n, axes in zip(leaf.shape, leaf.axes, strict=True)
        )

    def dims(self, leaf: Leaf) -> tuple[int, ...]:
        """By how much each dimension of a leaf is split over the ranks of a stage."""
        if not leaf.axes:
            return (1,) * len(leaf.shape)
        return tuple(
            math.prod(self.leaf_degree(leaf.path, axis) for axis in axes) for axes in leaf.axes
        )

    def leaf_share(self, path: str, axis: int) -> int | Fraction:
        """How many times less of this axis of a leaf the fullest rank has."""
        own = self.shares.get(axis, 1) if self.leaf_degree(path, axis) > 1 else 1
        return own * self.of_sequences(path) if axis == self.axes.batch else own

    def of_sequences(self, path: str) -> int | Fraction:
        """How many times fewer sequences of a cache leaf a rank has than its replica."""
        sharers = self.sharers.get(path, 1)
        if sharers == 1:
            return 1
        assert self.axes.batch is not None
        here = self.sizes[self.axes.batch] // self.degrees.get(self.axes.batch, 1)
        return Fraction(here, -(-here // sharers))

    def leaf_degree(self, path: str, axis: int) -> int:
        """By how much an axis of this leaf is split."""
        if path in self.whole and axis in self.summing:
            return 1
        if axis in self.axes.experts and path not in self.axes.routed:
            return 1  # a router has scores for all experts
        if axis == self.axes.batch:
            return self.degrees.get(axis, 1) * self.sharers.get(path, 1)
        return self.degrees.get(axis, 1)


def choose(
    work: Work,
    ranks: Ranks,
    splits: Sequence[Split] = (),
    pads: bool = False,
    cache_by_sequence: bool = False,
    head_whole: bool = False,
) -> Chosen:
    """The axes that these ranks split. Raises EmuError where a split cannot be made."""
    ruled = _ruled(work, splits)
    axes = axes_of(work)
    degrees: dict[int, int] = {}
    notes: list[str] = []
    if ranks.expert > 1:
        if not axes.experts:
            raise EmuError(
                f"spread: expert={ranks.expert}, and the work has no routed experts; "
                "take tensor= instead"
            )
        for dim in axes.expert_dims:
            degrees |= _experts(work, dim, ranks.expert, pads)
    if ranks.data > 1:
        batch = _batch(axes)
        degrees[batch] = _divides(work.axes[batch].size, ranks.data, "sequences", "data", pads)
    split: dict[int, int] = {}
    if ranks.tensor > 1 or ranks.per_expert > 1:
        split = _tensor(work, axes, ranks, ruled, pads, head_whole)
        if ranks.tensor > 1 and not split:
            raise EmuError(
                f"spread: tensor={ranks.tensor}, and the work has no axis that weights could be "
                "split along; say which by emu.Split(pattern, dim)"
                + ("" if work.axes else ", or trace it anew: it says nothing of its axes")
            )
    degrees |= split
    sharers = _sharers(work, axes, split, ranks) if cache_by_sequence else {}
    sizes = {axis: work.axes[axis].size for axis in degrees}
    if sharers and axes.batch is not None:
        sizes[axes.batch] = work.axes[axes.batch].size
    return Chosen(
        axes=axes,
        degrees=degrees,
        sizes=sizes,
        summing=frozenset(split),
        whole=frozenset(path for path, dim in ruled.items() if dim is None),
        sharers=sharers,
        notes=tuple(notes),
    )


def _sharers(work: Work, axes: Axes, split: Mapping[int, int], ranks: Ranks) -> dict[str, int]:
    """By cache leaf: tensor ranks that would hold the same key-value heads of it, if several.

    Latents stay whole: weights that make every head's keys of them are split by heads, so that each
    rank needs all sequences' latents.
    """
    if axes.batch is None:
        return {}
    made_heads = {
        axis
        for leaf in work.leaves
        if leaf.kind == "weights" and any(split.get(a, 1) > 1 for dim in leaf.axes for a in dim)
        for dim in leaf.axes
        if len(dim) == 1 and not set(dim) & axes.residual
        for axis in dim
    }
    found: dict[str, int] = {}
    latent = False
    for leaf in work.leaves:
        held = {axis for dim in leaf.axes for axis in dim}
        if leaf.kind != "cache" or axes.batch not in held or len(leaf.shape) < 3:
            continue
        latent = latent or bool(leaf.axes[-1] and set(leaf.axes[-1]) <= made_heads)
        sharers = ranks.tensor // math.prod(split.get(axis, 1) for axis in held)
        if sharers > 1:
            found[leaf.path] = sharers
    return {} if latent else found


def axes_of(work: Work) -> Axes:
    """How a work's axes are used: which are layers, experts, the batch, the residual stream."""
    leaves = {leaf.path: leaf for leaf in work.leaves if leaf.axes}
    layers: set[int] = set()
    experts: dict[tuple[int, ...], None] = {}
    routed: set[str] = set()
    for op in work.ops:
        for access in (*op.reads, *op.writes):
            leaf = leaves.get(access.tensor)
            if leaf is None:
                continue
            if access.routed is not None:
                routed.add(leaf.path)
                experts |= {dim: None for dim in leaf.axes if dim and set(dim) <= set(op.indexed)}
            if is_stacked(op, access, leaf):
                layers |= set(leaf.axes[0])
    residual = _residual(work, leaves, layers.union(*experts))
    return Axes(
        residual=residual,
        batch=_batch_axis(work, leaves.values(), layers, residual),
        layers=frozenset(layers),
        expert_dims=tuple(experts),
        routed=frozenset(routed),
    )


def _residual(work: Work, leaves: Mapping[str, Leaf], outer: set[int]) -> frozenset[int]:
    """The axis that the most weight matrices share; of two, the one that the first sums over.

    With it the axes that it forms a dimension with: a width that is scaled in blocks is several.
    """
    held: collections.Counter[int] = collections.Counter()
    for leaf in leaves.values():
        if leaf.kind == "weights":
            inner = [set(dim) - outer for dim in leaf.axes if set(dim) - outer]
            if len(inner) > 1:  # a bias or a scale of heads is no matrix, of however many axes
                held.update(set().union(*inner))
    most = max(held.values(), default=0)
    shared = [axis for axis in held if held[axis] == most]
    dims = [set(dim) for leaf in leaves.values() for dim in leaf.axes if leaf.kind == "weights"]

    def width(axis: int) -> frozenset[int]:
        return frozenset(one for dim in dims if axis in dim for one in dim)

    widths = {width(axis) for axis in shared}
    if most < 2 or (most < 3 and len(widths) == 1):  # what joins two matrices is to be split
        return frozenset()
    summed = [axis for op in work.ops if op.kind == "dot" for axis in op.summed if axis in shared]
    return width([*summed, *shared][0])


def is_stacked(op: Op, access: Access, leaf: Leaf) -> bool:
    """Whether an op is the body of a loop that takes one row of this leaf each turn."""
    rows = access.rows
    if rows is None or len(leaf.shape) < 2 or rows[1] - rows[0] < 2:
        return False
    if op.count % (rows[1] - rows[0]):
        return False
    if not leaf.axes:
        return True
    outer = set(leaf.axes[0])
    return bool(outer) and not outer & {*access.axes, *op.indexed}


def stacked_paths(work: Work) -> frozenset[str]:
    """The leaves of which every op that touches them is the body of a loop over their rows."""
    leaves = {leaf.path: leaf for leaf in work.leaves}
    in_rows: dict[str, bool] = {}
    for op in work.ops:
        for access in (*op.reads, *op.writes):
            leaf = leaves.get(access.tensor)
            if leaf is not None:
                known = in_rows.get(leaf.path, True)
                in_rows[leaf.path] = known and is_stacked(op, access, leaf)
    return frozenset(path for path, stacked in in_rows.items() if stacked)


def _batch_axis(
    work: Work, leaves: Iterable[Leaf], layers: set[int], residual: frozenset[int]
) -> int | None:
    """The axis of sequences: the first that cache leaves have, beside hidden vectors in ops too."""
    in_weights: set[int] = set()
    held: collections.Counter[int] = collections.Counter()
    for leaf in leaves:
        dims = [set(dim) for dim in leaf.axes if not dim or not set(dim) <= layers]
        if leaf.kind == "weights":
            in_weights |= set().union(*dims)
        elif dims:
            held.update(dims[0])
    beside = {
        axis for op in work.ops if not residual or residual & set(op.axes) for axis in op.axes
    }
    known = [axis for axis in held if axis not in in_weights and axis in beside]
    return max(known, key=lambda axis: held[axis], default=None)


def _batch(axes: Axes) -> int:
    if axes.batch is None:
        raise EmuError(
            "spread: data>1 divides the sequences of a batch, and the work has one sequence or no "
            "cache that would show them; trace a larger batch, or take data=1 and one replica"
        )
    return axes.batch


def _ruled(work: Work, splits: Sequence[Split]) -> dict[str, int | None]:
    """What the rules say, by leaf."""
    members = Members(work.leaves)
    ruled: dict[str, int | None] = {}
    for split in splits:
        hits = [leaf for leaf in work.leaves if match(split.pattern, leaf, members) is not None]
        if not hits:
            raise EmuError(
                f"split {split.pattern!r} matches no leaf"
                + nearest(split.pattern, (leaf.path for leaf in work.leaves))
            )
        for leaf in hits:
            if split.dim is not None and not -len(leaf.shape) <= split.dim < len(leaf.shape):
                raise EmuError(
                    f"split {split.pattern!r}: {leaf.path!r} {leaf.shape} has no dimension "
                    f"{split.dim}"
                )
            ruled.setdefault(leaf.path, split.dim)
    return ruled


@dataclasses.dataclass(kw_only=True)
class _Uses:
    """What the ops do with each axis of a weight matrix."""

    produced: set[int]
    summed: set[int]
    looked_up: set[int]
    whole: set[int]
    last: set[int]  # produced by the last product with weights


def _uses(work: Work, axes: Axes, matrices: Mapping[str, Leaf]) -> _Uses:
    uses = _Uses(produced=set(), summed=set(), looked_up=set(), whole=set(), last=set())
    for op in work.ops:
        uses.whole.update(op.whole)
        for access in op.reads:
            if access.tensor not in matrices:
                continue
            held = {axis for dim in matrices[access.tensor].axes for axis in dim}
            if op.kind != "dot":
                if access.routed is None:
                    uses.looked_up |= held & set(op.indexed)
                continue
            contracted = (
                set(op.summed) | set(access.contracted) if not op.summed else set(op.summed)
            )
            made = held & set(op.axes) - contracted - set(op.indexed)
            uses.produced |= made
            uses.summed |= held & contracted
            uses.last = made
    return uses


def _tensor(
    work: Work,
    axes: Axes,
    ranks: Ranks,
    ruled: Mapping[str, int | None],
    pads: bool,
    head_whole: bool,
) -> dict[int, int]:
    """Degrees of the axes that tensor ranks split."""
    never = {*axes.residual, axes.batch, *axes.layers, *axes.experts}
    matrices = {leaf.path: leaf for leaf in work.leaves if leaf.kind == "weights" and leaf.axes}
    whole = {path for path, dim in ruled.items() if dim is None}
    dims = {
        path: [tuple(axis for axis in dim if axis not in never) for dim in leaf.axes]
        for path, leaf in matrices.items()
    }
    uses = _uses(work, axes, matrices)
    widths = _head_widths(work, dims)
    worth = (uses.produced & uses.summed) - uses.whole
    if not head_whole:
        worth |= uses.looked_up | uses.last
    worth -= widths
    degrees: dict[int, int] = {}
    taken: set[str] = set()
    for path, dim in ruled.items():  # what a person asked for comes first
        if dim is None or path not in matrices:
            continue
        asked = matrices[path].axes[dim]
        if all(degrees.get(axis, 1) > 1 for axis in asked) and asked:
            continue
        degree = _degree(path, axes, ranks)
        degrees |= _major_first(work, asked, degree, pads, path)
        taken |= {p for p, held in dims.items() if any(set(asked) & set(d) for d in held)}
    by_axis: dict[int, list[str]] = collections.defaultdict(list)  # the matrices that hold it
    for path, held in dims.items():
        for axis in {axis for dim in held for axis in dim}:
            by_axis[axis].append(path)
    for family in _families(dims, worth, by_axis, matrices):
        holding = list(dict.fromkeys(path for axis in sorted(family) for path in by_axis[axis]))
        holding = [p for p in holding if len(matrices[p].axes) - _outer(matrices[p], axes) > 1]
        holding = [p for p in holding if p not in whole]
        if not holding or taken & set(holding):
            continue
        degree = max(_degree(path, axes, ranks) for path in holding)
        if degree == 1:
            continue
        longest = max(
            (dim for path in holding for dim in dims[path]),
            key=lambda dim: math.prod(work.axes[axis].size for axis in dim if axis in family),
        )
        what = _what(work, longest, family, holding[0])
        order = [axis for axis in longest if axis in family]
        degrees |= _major_first(work, order, degree, pads, what)
        taken |= set(holding)
    return degrees


def _degree(path: str, axes: Axes, ranks: Ranks) -> int:
    return ranks.per_expert if path in axes.routed else ranks.tensor


def _outer(leaf: Leaf, axes: Axes) -> int:
    """How many dimensions only say which layer, or which expert."""
    outer = axes.layers | axes.experts
    return sum(1 for dim in leaf.axes if dim and set(dim) <= outer)


def _head_widths(work: Work, dims: Mapping[str, Sequence[tuple[int, ...]]]) -> set[int]:
    """Axes within a head: a cache has them too, and in some matrix they are not the major one."""
    cached = {
        axis for leaf in work.leaves if leaf.kind == "cache" for dim in leaf.axes for axis in dim
    }
    minor = {axis for held in dims.values() for dim in held for axis in dim[1:]}
    return cached & minor


def _families(
    dims: Mapping[str, Sequence[tuple[int, ...]]],
    worth: set[int],
    by_axis: Mapping[int, Sequence[str]],
    matrices: Mapping[str, Leaf],
) -> list[set[int]]:
    """Axes that share a dimension somewhere, those of the most bytes first."""
    families: list[set[int]] = []
    for together in {frozenset(worth.intersection(dim)) for held in dims.values() for dim in held}:
        apart = [family for family in families if not family & together]
        joined = set(together).union(*(family for family in families if family & together))
        families = [*apart, joined] if joined else apart

    def size(family: set[int]) -> int:
        holding = {path for axis in family for path in by_axis[axis]}
        return sum(matrices[path].bytes for path in holding)

    return sorted(families, key=lambda family: (-size(family), min(family)))


def _major_first(
    work: Work, order: Sequence[int], degree: int, pads: bool, what: str
) -> dict[int, int]:
    """How a degree goes over the axes of one dimension. Raises EmuError where it does not."""
    left = degree
    found: dict[int, int] = {}
    for axis in order:
        share = math.gcd(left, work.axes[axis].size)
        found[axis], left = share, left // share
    if left > 1:
        sizes = [work.axes[axis].size for axis in order]
        total = math.prod(sizes)
        padded = _padded(sizes, degree) if pads else None
        if padded is None:
            raise EmuError(
                f"spread: {total} {what} over {degree} tensor ranks: not divisible; take a degree "
                f"such as {_near(sizes, degree)}, a stack that pads, or emu.Split(pattern, None) "
                "for what each rank is to hold whole"
            )
        found = dict(zip(order, padded, strict=True))
    return {axis: share for axis, share in found.items() if share > 1}


def _padded(sizes: Sequence[int], degree: int) -> tuple[int, ...] | None:
    """A degree over axes that it does not divide, so that the fullest rank has the least.

    Of equally good ways, the one that splits the major axes more. Where there are more ranks than
    entries, some have nothing but padding. None: there are no axes.
    """
    ways = [
        way
        for way in itertools.product(
            *([d for d in range(1, degree + 1) if not degree % d] for _ in sizes)
        )
        if math.prod(way) == degree
    ]

    def fullest(way: tuple[int, ...]) -> int:
        return math.prod(-(-n // d) for n, d in zip(sizes, way, strict=True))

    return min(ways, key=lambda way: (fullest(way), [-d for d in way]), default=None)


def _near(sizes: Sequence[int], degree: int) -> int:
    """The largest degree not above `degree` that goes over these axes."""

    def goes(n: int) -> bool:
        for size in sizes:
            n //= math.gcd(n, size)
        return n == 1

    return next(n for n in range(degree, 0, -1) if goes(n))


def _what(work: Work, dim: Sequence[int], family: set[int], path: str) -> str:
    """What the entries of a dimension are, in words."""
    cached = {axis for leaf in work.leaves if leaf.kind == "cache" for d in leaf.axes for axis in d}
    if family & cached or len(dim) > len([axis for axis in dim if axis in family]):
        return f"heads ({path})"
    return f"entries ({work.axes[dim[0]].name or path})"


def _experts(work: Work, dim: Sequence[int], degree: int, pads: bool) -> dict[int, int]:
    """How experts, in groups of which the first axis says which, go over ranks."""
    count = math.prod(work.axes[axis].size for axis in dim)
    _divides(count, degree, "experts", "expert", pads)
    found: dict[int, int] = {}
    left = degree
    for axis in dim:
        found[axis] = math.gcd(left, work.axes[axis].size)
        left //= found[axis]
    found[dim[0]] *= left
    return found


def _divides(count: int, degree: int, what: str, name: str, pads: bool) -> int:
    if count % degree and not (pads and degree <= count):
        raise EmuError(
            f"spread: {count} {what} over {name}={degree}: not divisible; take a degree that "
            f"divides {count}, or a stack that pads"
        )
    return degree
