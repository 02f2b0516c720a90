"""The tape that the interpreter writes ops on, one entry an equation that costs something.

Entries still name buffers rather than bytes: which of them cross memory is known only when the
whole function has been read and its elementwise ops are fused (`emu.fusing`).
"""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from emu.axes import Dims, Factors, Ids, together
from emu.hints import Hints
from emu.jaxprs import Shape
from emu.values import Buffer, Count, Lookup, Picked, Source, Stored, Value
from emu.work import Collective, Dot

# How an entry fuses: into its neighbours; only with what comes before it (an update in place);
# with nothing; or it starts no kernel at all, since it is done inside those that use it.
Fuse = Literal["loop", "root", "alone", "rider"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Touch:
    """Elements of one tensor that an entry reads or writes in one run."""

    tensor: Stored | Buffer
    elements: Count
    rows: tuple[int, int] | None = None
    contracted: tuple[int, ...] = ()
    regions: frozenset[object] = frozenset()  # the slices that these elements are
    axes: Ids = ()  # logical axes that they span
    parts: tuple[Ids, ...] = ()  # axes of dimensions of which they span only a factor
    picked: Picked | None = None


@dataclasses.dataclass(kw_only=True, eq=False)
class Entry:
    """An op on the tape."""

    name: str
    kind: str
    scope: str
    line: str
    count: int
    region: int  # the loop body that it is in: fusing never crosses one
    devices: int
    fuse: Fuse
    flops: Mapping[str, int] = dataclasses.field(default_factory=dict)
    reads: list[Touch] = dataclasses.field(default_factory=list)
    writes: list[Touch] = dataclasses.field(default_factory=list)
    after: list[Buffer] = dataclasses.field(default_factory=list)  # needed, but no bytes of it
    collective: Collective | None = None
    dot: Dot | None = None
    real: bool = True  # a lookup that only products read is never real
    axes: Ids | None = None  # logical axes, as in `emu.work.Op`; None: not yet known
    summed: Ids = ()
    indexed: Ids = ()
    whole: Ids = ()


class Tape:
    """The entries so far, and where the interpreter is: loop, shard, hints."""

    def __init__(self, hints: Hints) -> None:
        self.hints = hints
        self.entries: list[Entry] = []
        self.notes: dict[str, None] = {}
        self.count = 1
        self.region = 0
        self.path: tuple[int, ...] = (0,)  # the loop bodies around, from the outside in
        self.paths: dict[int, tuple[int, ...]] = {0: (0,)}
        self.mesh: dict[str, int] = {}  # axis sizes under shard_map
        self.scope = ""  # of the calls around
        self.escaping: set[Buffer] = set()  # read after their region ends
        self.born: dict[Buffer, int] = {}  # buffers allocated before their first write
        self.homes: dict[Buffer, Buffer] = {}  # buffers that live in another one's memory
        self.constants: dict[int, Value] = {}  # arrays that the function is closed over, by id
        self.factors = Factors()
        self.axes: dict[Buffer, Dims] = {}  # logical axes of activations

    @property
    def devices(self) -> int:
        """Devices that do the same on their own shards."""
        devices = 1
        for n in self.mesh.values():
            devices *= n
        return devices

    def note(self, text: str) -> None:
        """Something assumed, for the reader of the work."""
        self.notes[text] = None

    @contextlib.contextmanager
    def loop(self, times: int) -> Iterator[None]:
        """Inside, entries run so many times as often and fuse only among themselves."""
        count, region, path = self.count, self.region, self.path
        self.region = len(self.paths)
        self.path = (*path, self.region)
        self.paths[self.region] = self.path
        self.count = count * times
        try:
            yield
        finally:
            self.count, self.region, self.path = count, region, path

    @contextlib.contextmanager
    def within(self, scope: str, mesh: Mapping[str, int] | None = None) -> Iterator[None]:
        """Inside, entries carry this scope in front, and know these mesh axes."""
        old_scope, old_mesh = self.scope, self.mesh
        self.scope = "/".join(part for part in (old_scope, scope) if part)
        self.mesh = {**old_mesh, **(mesh or {})}
        try:
            yield
        finally:
            self.scope, self.mesh = old_scope, old_mesh

    def buffer(self, shape: Shape, home: Buffer | None = None) -> Buffer:
        """New activations; in another buffer's memory if `home` is given."""
        return Buffer(shape=shape, home=home)

    def home(self, buffer: Buffer) -> Buffer:
        """The buffer whose memory this one is really in."""
        while True:
            above = self.homes.get(buffer, buffer.home)
            if above is None or above is buffer:
                return buffer
            buffer = above

    def settled(self, value: Value) -> Value:
        """The value with its pending lookups done: their rows are copied out, once."""
        if not any(isinstance(s.tensor, Lookup) for s in value.sources):
            return value
        return dataclasses.replace(value, sources=tuple(self._settle(s) for s in value.sources))

    def _settle(self, source: Source) -> Source:
        lookup = source.tensor
        if not isinstance(lookup, Lookup):
            return source
        if lookup.buffer is None:
            rows = Value(shape=lookup.shape, sources=(lookup.origin,))
            lookup.buffer = self.buffer(lookup.shape)
            entry: Entry = lookup.entry
            entry.real = True
            found = touches(rows)
            if lookup.axes is not None:
                spread = together(lookup.axes)
                found = [dataclasses.replace(t, axes=spread, parts=()) for t in found]
                self.axes[lookup.buffer] = lookup.axes
            entry.reads.extend(found)
            entry.writes.append(Touch(tensor=lookup.buffer, elements=lookup.shape.size))
        return dataclasses.replace(source, tensor=lookup.buffer, axes=(None,) * len(source.axes))

    def leave(self, value: Value) -> None:
        """The value outlives its region: its buffers have to be written."""
        for s in value.sources:
            if isinstance(s.tensor, Buffer):
                self.escaping.add(s.tensor)


def touches(value: Value, contracted: Sequence[int] = ()) -> list[Touch]:
    """What reading a whole value touches: equal regions once, never more than a tensor holds.

    `contracted` are the value's dimensions that a product sums over.
    """
    regions: dict[Stored | Buffer, dict[object, Source]] = {}
    found: list[Touch] = []
    for s in value.sources:
        tensor = s.tensor
        if isinstance(tensor, Lookup):
            if tensor.buffer is None:
                found.extend(tensor.indices)
            tensor = _under(tensor)
        known = regions.setdefault(tensor, {}).setdefault(s.region, s)
        if s.elements > known.elements:
            regions[tensor][s.region] = s
    dims = value.shape.dims
    for tensor, parts in regions.items():
        elements: Count = sum((s.elements for s in parts.values()), 0)
        axes = {s.axes[d] for s in parts.values() for d in contracted if d < len(s.axes)}
        spans = [s.rows for s in parts.values()]
        found.append(
            Touch(
                tensor=tensor,
                elements=min(elements, held(tensor)),
                rows=_span(spans) if isinstance(tensor, Stored) else None,
                contracted=tuple(sorted(a for a in axes if a is not None))
                if isinstance(tensor, Stored)
                else (),
                regions=frozenset(parts),
                picked=next((s.picked for s in parts.values() if s.picked is not None), None),
                **_spanned(value.axes, dims, parts.values()),
            )
        )
    return found


def _spanned(axes: Dims | None, dims: Sequence[int], sources: Iterable[Source]) -> dict[str, Any]:
    """The logical axes of a value that parts of a tensor under it are spread over."""
    if axes is None or len(axes) != len(dims):
        return {}
    full: dict[int, None] = {}
    partly: dict[Ids, None] = {}
    for s in sources:
        for d, n in enumerate(s.extents):
            if n == dims[d]:
                full.update(dict.fromkeys(axes[d]))
            elif n > 1:
                partly[axes[d]] = None
    return {"axes": tuple(full), "parts": tuple(partly)}


def held(tensor: Stored | Buffer) -> int:
    """Elements in a tensor; of a cache leaf with a context, those of the tokens in it."""
    if isinstance(tensor, Buffer):
        return tensor.shape.size
    size = tensor.leaf.size
    if tensor.token_axis is not None and tensor.tokens is not None and size:
        length = tensor.leaf.shape[tensor.token_axis]
        size = size // length * min(length, tensor.tokens)
    return size


def _under(lookup: Lookup) -> Stored | Buffer:
    """What a lookup reads from: the leaf, or the copy once there is one."""
    if lookup.buffer is not None:
        return lookup.buffer
    tensor = lookup.origin.tensor
    return _under(tensor) if isinstance(tensor, Lookup) else tensor


def _span(rows: Sequence[tuple[int, int] | None]) -> tuple[int, int] | None:
    known = [r for r in rows if r is not None]
    if len(known) < len(rows) or not known:
        return None
    return min(r[0] for r in known), max(r[1] for r in known)
