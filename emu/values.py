"""Where a value in a jaxpr comes from: which stored tensors it would take to read it, and how much.

A value is either in memory (one source: a buffer of activations), or still a *view*: an expression
over stored tensors that nothing has read yet, such as a transposed slice of a weight, or int4 codes
times their block's scale. Each source of a view says, for every dimension of the value, how many
distinct stored elements lie along it (its *extent*). Extents survive reshapes, slices, transposes
and broadcasts, so that one third of a fused matrix, a scale that is broadcast over its block, or
one layer of a stack are each charged for what they are.
"""

import dataclasses
import math
from collections.abc import Hashable, Sequence
from fractions import Fraction
from typing import Any

from emu.jaxprs import Shape
from emu.work import Leaf

Count = int | Fraction


@dataclasses.dataclass(kw_only=True, eq=False)
class Stored:
    """A leaf of the weights or the cache; compared by identity."""

    leaf: Leaf
    tokens: int | None = None  # tokens really in the cache, where a hint says so
    token_axis: int | None = None  # of a cache leaf: hinted, or learnt from its first update
    blurred: bool = False  # a view lost sight of an axis before the axis of tokens was known


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Buffer:
    """Activations in memory; compared by identity."""

    shape: Shape
    # The buffer whose memory this one is, after an update in place or around a loop.
    home: "Buffer | None" = None


@dataclasses.dataclass(kw_only=True, eq=False)
class Lookup:
    """Rows of a stored tensor, at indices known only at run time.

    A matrix product reads them where they are stored; anything else first copies them out, once,
    into `buffer`, and the lookup's entry on the tape becomes real.
    """

    origin: "Source"
    shape: Shape  # of the rows
    entry: Any  # on the tape
    indices: tuple[Any, ...]  # what reading the indices touches
    buffer: Buffer | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A tensor under a value, and how much of it the value spans."""

    tensor: Stored | Buffer | Lookup
    extents: tuple[Count, ...]  # distinct elements along each dimension of the value
    axes: tuple[int | None, ...]  # the leaf's axis that a dimension walks, where it walks just one
    rows: tuple[int, int] | None = None  # of the leaf's leading axis: from and to
    region: tuple[Hashable, ...] = ()  # the slices taken so far: equal regions are read once
    scale: Count = 1  # what the extents cannot say

    @property
    def elements(self) -> Count:
        """Elements to read for the whole value; of a cache, of the tokens that are in it."""
        tensor = self.tensor
        axis = tensor.token_axis if isinstance(tensor, Stored) else None
        tokens = tensor.tokens if isinstance(tensor, Stored) else None
        count: Count = self.scale
        for n, a in zip(self.extents, self.axes, strict=True):
            if axis is not None and a == axis:
                count *= n if tokens is None else min(n, tokens)
            else:
                count *= n
        return count


@dataclasses.dataclass(frozen=True, kw_only=True)
class Routing:
    """Indices that a router chose: `chosen` of `experts` for each token."""

    experts: int
    chosen: Count


@dataclasses.dataclass(frozen=True, kw_only=True)
class Value:
    """What the interpreter knows of one variable."""

    shape: Shape
    sources: tuple[Source, ...] = ()  # none: made of constants alone, which cost nothing to read
    computed: bool = False  # a view with arithmetic in it
    known: Any = None  # the number that every element equals, where it is known
    routing: Routing | None = None
    columns: tuple[bool, ...] | None = None  # of an index matrix: which columns are constants
    cell: "Cell | None" = None  # a mutable reference's content

    @property
    def constant(self) -> bool:
        """Made of constants alone: nothing that the caller passed is in it."""
        return not self.sources

    @property
    def view(self) -> bool:
        """Over stored tensors and constants alone; nothing has been read yet."""
        return all(not isinstance(s.tensor, Buffer) for s in self.sources)

    def same_place(self, other: "Value") -> bool:
        """Whether both are the same part of the same stored tensor."""
        a, b = self.stored, other.stored
        if a is None or b is None:
            return False
        return a.tensor is b.tensor and a.region == b.region and a.axes == b.axes

    @property
    def stored(self) -> Source | None:
        """The one leaf that this value is, sliced or transposed but not computed on."""
        if self.computed or len(self.sources) != 1:
            return None
        return self.sources[0] if isinstance(self.sources[0].tensor, Stored) else None


@dataclasses.dataclass(kw_only=True, eq=False)
class Cell:
    """The content of a mutable reference."""

    content: Value


def of_leaf(stored: Stored) -> Value:
    """A whole leaf."""
    leaf = stored.leaf
    source = Source(
        tensor=stored,
        extents=leaf.shape,
        axes=tuple(range(len(leaf.shape))),
        rows=(0, leaf.shape[0]) if leaf.shape else None,
    )
    return Value(shape=Shape(dims=leaf.shape, dtype=leaf.dtype), sources=(source,))


def of_buffer(buffer: Buffer, shape: Shape | None = None) -> Value:
    """All of a buffer."""
    dims = (shape or buffer.shape).dims
    source = Source(tensor=buffer, extents=dims, axes=(None,) * len(dims))
    return Value(shape=shape or buffer.shape, sources=(source,))


def show_token_axis(value: Value, dim: int) -> None:
    """A dimension of the value is seen to be the one along which a cache leaf holds its tokens."""
    if len(value.sources) != 1 or value.computed:
        return
    source = value.sources[0]
    tensor = source.tensor
    while isinstance(tensor, Lookup):
        tensor = tensor.origin.tensor
    if not isinstance(tensor, Stored) or tensor.leaf.kind != "cache":
        return
    if tensor.tokens is not None and tensor.token_axis is None:
        tensor.token_axis = source.axes[dim]


def constant(shape: Shape, known: Any = None) -> Value:
    """A value made of constants."""
    return Value(shape=shape, known=known)


def merged(shape: Shape, values: Sequence[Value], *, computed: bool) -> Value:
    """A view that combines views of the same shape element by element; scalars spread."""
    rank = len(shape.dims)
    sources: dict[Source, None] = {}
    for value in values:
        for s in value.sources:
            if len(s.extents) != rank:
                s = dataclasses.replace(  # noqa: PLW2901
                    s, extents=(1,) * rank, axes=(None,) * rank, scale=s.elements
                )
            sources[s] = None
    return Value(shape=shape, sources=tuple(sources), computed=computed)


def transposed(value: Value, shape: Shape, permutation: Sequence[int]) -> Value:
    """Dimensions in another order."""
    return _mapped(
        value,
        shape,
        lambda s: dataclasses.replace(
            s,
            extents=tuple(s.extents[i] for i in permutation),
            axes=tuple(s.axes[i] for i in permutation),
        ),
    )


def broadcast(value: Value, shape: Shape, dims: Sequence[int]) -> Value:
    """Dimension i of the value becomes `dims[i]`; the others are new, and read nothing more."""

    def spread(s: Source) -> Source:
        extents: list[Count] = [1] * len(shape.dims)
        axes: list[int | None] = [None] * len(shape.dims)
        for i, d in enumerate(dims):
            extents[d], axes[d] = s.extents[i], s.axes[i]
        return dataclasses.replace(s, extents=tuple(extents), axes=tuple(axes))

    return _mapped(value, shape, spread)


def sliced(
    value: Value,
    shape: Shape,
    region: Hashable,
    starts: Sequence[int | None] | None = None,
) -> Value:
    """The same number of dimensions, each as long as in `shape` or shorter.

    `region` names the slice: two slices of the same name are the same one. `starts` holds the first
    index of each dimension, where it is known and the stride is 1.
    """
    old = value.shape.dims

    def cut(s: Source) -> Source:
        extents = list(s.extents)
        rows = s.rows
        for d, (n, m) in enumerate(zip(old, shape.dims, strict=True)):
            if n == m:
                continue
            extents[d] = _cut_extent(s, d, n, m)
            start = None if starts is None else starts[d]
            if s.axes[d] == 0 and rows is not None and start is not None:
                rows = (rows[0] + start, rows[0] + start + m)
        return dataclasses.replace(s, extents=tuple(extents), rows=rows, region=(*s.region, region))

    return _mapped(value, shape, cut)


def _cut_extent(s: Source, d: int, n: int, m: int) -> Count:
    """The extent of dimension `d` when `m` of its `n` entries are kept."""
    extent = s.extents[d]
    if extent == n:
        return m
    if extent <= 1 or m == 0:
        return min(extent, m)
    part = Fraction(extent) * m / n
    return whole(max(part, Fraction(1)))


def without(value: Value, shape: Shape, dim: int) -> Value:
    """One dimension of length 1 dropped."""

    def drop(s: Source) -> Source:
        return dataclasses.replace(
            s,
            extents=(*s.extents[:dim], *s.extents[dim + 1 :]),
            axes=(*s.axes[:dim], *s.axes[dim + 1 :]),
            scale=s.scale * s.extents[dim],
        )

    return _mapped(value, shape, drop)


def reshaped(value: Value, shape: Shape) -> Value:
    """The same elements in row-major order under other dimensions."""
    old, new = value.shape.dims, shape.dims
    groups = _groups(old, new)
    lost = {d for olds, news in groups if not len(olds) == len(news) == 1 for d in olds}
    value = blurring(value, lost)

    def regroup(s: Source) -> Source:
        extents: list[Count] = [1] * len(new)
        axes: list[int | None] = [None] * len(new)
        scale = s.scale
        for d, n in enumerate(old):
            if n == 1:
                scale *= s.extents[d]
        for olds, news in groups:
            if len(olds) == len(news) == 1:
                extents[news[0]], axes[news[0]] = s.extents[olds[0]], s.axes[olds[0]]
                continue
            left = _product(s.extents[d] for d in olds)
            for d in news:
                extents[d], left = _share(left, new[d])
            extents[news[0]] *= left
        return dataclasses.replace(s, extents=tuple(extents), axes=tuple(axes), scale=scale)

    return _mapped(value, shape, regroup)


def blurring(value: Value, lost: set[int]) -> Value:
    """The value, a cache's tokens counted in along dimensions about to be lost sight of."""
    return (
        dataclasses.replace(value, sources=tuple(_tokens_counted(s, lost) for s in value.sources))
        if lost and value.sources
        else value
    )


def _tokens_counted(s: Source, lost: set[int]) -> Source:
    stored = s.tensor
    if not isinstance(stored, Stored) or stored.tokens is None:
        return s
    if stored.token_axis is None:
        stored.blurred |= any(s.axes[d] is not None for d in lost)
        return s
    extents = [
        min(n, stored.tokens) if d in lost and s.axes[d] == stored.token_axis else n
        for d, n in enumerate(s.extents)
    ]
    return dataclasses.replace(s, extents=tuple(extents))


def _share(left: Count, n: int) -> tuple[Count, Count]:
    """How much of `left` distinct elements goes along a major dimension of length `n`."""
    if left == 0:
        return 0, 1
    if left >= n and Fraction(left, n).denominator == 1:
        return n, whole(Fraction(left, n))
    if left <= n:
        return left, 1
    common = math.gcd(int(left), n)
    return common, whole(Fraction(left, common))


def _groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The finest runs of dimensions, lengths of 1 left out, that hold the same elements."""
    if 0 in old:
        return [
            ([d for d, n in enumerate(old) if n != 1], [d for d, n in enumerate(new) if n != 1])
        ]
    olds = [d for d, n in enumerate(old) if n != 1]
    news = [d for d, n in enumerate(new) if n != 1]
    groups = []
    i = j = 0
    while i < len(olds):
        a, b = old[olds[i]], new[news[j]]
        first, second = i, j
        while a != b:
            if a < b:
                i += 1
                a *= old[olds[i]]
            else:
                j += 1
                b *= new[news[j]]
        i, j = i + 1, j + 1
        groups.append((olds[first:i], news[second:j]))
    return groups


def whole(n: Count) -> Count:
    """An int where the count is one."""
    return n.numerator if isinstance(n, Fraction) and n.denominator == 1 else n


def _product(counts: Any) -> Count:
    total: Count = 1
    for n in counts:
        total *= n
    return total


def _mapped(value: Value, shape: Shape, change: Any) -> Value:
    return Value(
        shape=shape,
        sources=tuple(change(s) for s in value.sources),
        computed=value.computed,
        known=value.known,
        routing=value.routing,
    )
