"""Where a value in a jaxpr comes from: which stored tensors it would take to read it, and how much.

A value is either in memory (one source: a buffer of activations), or still a *view*: an expression
over stored tensors that nothing has read yet, such as a transposed slice of a weight, or int4 codes
times their block's scale. Each source of a view says, for every dimension of the value, how many
distinct stored elements lie along it (its *extent*). Extents survive reshapes, slices, transposes
and broadcasts, so that one third of a fused matrix, a scale that is broadcast over its block, or
one layer of a stack are each charged for what they are.
"""

import dataclasses
from collections.abc import Hashable
from fractions import Fraction
from typing import Any

from emu.axes import Dims, Ids
from emu.jaxprs import Shape
from emu.work import Leaf, Routed

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
    axes: Dims | None = None  # logical axes of the rows' dimensions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picked:
    """Experts, along some logical axes, of which those are read that a router picked."""

    routed: Routed
    axes: Ids


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A tensor under a value, and how much of it the value spans."""

    tensor: Stored | Buffer | Lookup
    extents: tuple[Count, ...]  # distinct elements along each dimension of the value
    axes: tuple[int | None, ...]  # the leaf's axis that a dimension walks, where it walks just one
    rows: tuple[int, int] | None = None  # of the leaf's leading axis: from and to
    region: tuple[Hashable, ...] = ()  # the slices taken so far: equal regions are read once
    scale: Count = 1  # what the extents cannot say
    picked: Picked | None = None

    @property
    def looked_into(self) -> Stored | Buffer:
        """The tensor; of rows looked up in one, that one."""
        tensor = self.tensor
        while isinstance(tensor, Lookup):
            tensor = tensor.origin.tensor
        return tensor

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
    axes: Ids = ()  # the logical axes that the indices point into


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
    axes: Dims | None = None  # logical axes of each dimension; None: of constants, or not yet known
    pointing: dict[int, Ids] | None = None  # of indices: by length, the axes that they pointed into

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
    tensor = source.looked_into
    if not isinstance(tensor, Stored) or tensor.leaf.kind != "cache":
        return
    if tensor.tokens is not None and tensor.token_axis is None:
        tensor.token_axis = source.axes[dim]


def constant(shape: Shape, known: Any = None) -> Value:
    """A value made of constants."""
    return Value(shape=shape, known=known)


def whole(n: Count) -> Count:
    """An int where the count is one."""
    return n.numerator if isinstance(n, Fraction) and n.denominator == 1 else n
