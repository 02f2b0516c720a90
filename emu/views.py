"""How where-it-comes-from goes through reshapes, transposes, broadcasts and slices.

Each function takes a value and gives the one that a view of it is: the same sources, their extents
and axes rearranged (see `emu.values`). Nothing here costs anything.
"""

import dataclasses
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from fractions import Fraction

from emu.jaxprs import Shape
from emu.values import Count, Source, Stored, Value, whole


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
    groups = regrouped(old, new)
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


def regrouped(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
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


def _product(counts: Iterable[Count]) -> Count:
    total: Count = 1
    for n in counts:
        total *= n
    return total


def _mapped(value: Value, shape: Shape, change: Callable[[Source], Source]) -> Value:
    return Value(
        shape=shape,
        sources=tuple(change(s) for s in value.sources),
        computed=value.computed,
        known=value.known,
        routing=value.routing,
    )
