"""What one call of a function does: the tensors that it holds, and its operations in order.

A `Leaf` is one array of a weights or cache tree, named by its key path (`layers/0/mlp/up/kernel`).
An `Op` is one equation of the function's jaxpr with everything that costs time: FLOPs, the bytes
that it reads and writes by tensor, a collective if it is one, and how often it runs. A `Work` is
the record of a whole call; works add (`prefill + decode`) and multiply (`64 * decode`). Sums add
and multiply with them, the peak of live activations does not. All counts are Python ints, since a
trillion does not fit an int32.
"""

import collections
import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import jax

from emu.errors import EmuError
from emu.jaxprs import bits_of, key_path

SCHEMA = 2  # raised when a field is added; fields are never renamed or removed

Kind = Literal["weights", "cache", "activations"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Axis:
    """A logical axis: dimensions of tensors that walk the same entries (heads, vocabulary, tokens).

    `Work.axes` lists them; everything else names them by their place in that list. A dimension that
    is reshaped into several (40 heads of 128) is the product of several axes, major first.
    """

    size: int
    name: str = ""  # where it was first seen: `layers/mlp/up/kernel[0]`


@dataclasses.dataclass(frozen=True, kw_only=True)
class Routed:
    """Which of a stack of experts is read is decided by a router, token by token."""

    experts: int  # to choose from
    chosen: int  # for each token
    tokens: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Leaf:
    """One tensor that lives in a memory between calls."""

    path: str  # key path; cache leaves start with `cache/`
    shape: tuple[int, ...]
    dtype: str
    kind: Literal["weights", "cache"] = "weights"
    axes: tuple[tuple[int, ...], ...] = ()  # the logical axes of each dimension; (): not known

    @property
    def size(self) -> int:
        """Elements, as a Python int."""
        count = 1
        for n in self.shape:
            count *= n
        return count

    @property
    def bytes(self) -> int:
        """Bytes stored, as a Python int; sub-byte dtypes are packed."""
        return -(-self.size * bits_of(self.dtype) // 8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Access:
    """The bytes of one tensor that an op reads or writes in one run."""

    tensor: str  # a leaf's path, or `activations`
    kind: Kind
    bytes: int
    # Which entries of the leaf's leading axis all runs of the op touch together, from and to (a
    # scan over 80 stacked layers touches (0, 80), one per run). None: the tensor has no such axis.
    rows: tuple[int, int] | None = None
    # The leaf's axes that a dot sums over, where they can still be told apart: a split of one of
    # them over chips leaves partial sums to be added.
    contracted: tuple[int, ...] = ()
    axes: tuple[int, ...] = ()  # the logical axes that these bytes are spread over
    routed: Routed | None = None  # experts' weights: `bytes` are of the distinct ones expected


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
    """One exchange between devices.

    `bytes` is what one device puts in, except for an all-gather, where it is what one ends with.
    """

    kind: Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "permute"]
    bytes: int
    group: int  # devices that take part together


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dot:
    """A product of matrices: `batch` of [m, k] by [k, n]; 2·batch·m·n·k FLOPs."""

    batch: int
    m: int
    n: int
    k: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Op:
    """One equation: its cost for one run, and the number of runs."""

    name: str  # the primitive's name
    kind: str  # dot, convolution, elementwise, reduction, gather, update, sort, collective, …
    scope: str = ""  # name-scope path, `decoder/attention`
    line: str = ""  # `file.py:12 (function)`
    count: int = 1  # runs in one call
    flops: Mapping[str, int] = dataclasses.field(default_factory=dict)  # by dtype
    reads: tuple[Access, ...] = ()
    writes: tuple[Access, ...] = ()
    collective: Collective | None = None
    dot: Dot | None = None
    # Ops with the same number run as one kernel; None: it rides along in the kernels that use it
    # (dequantisation in a product's operand) or starts none.
    kernel: int | None = None
    devices: int = 1  # under shard_map: how many devices do this, each on its own shard
    # Logical axes: all that its FLOPs are spread over; of those, the ones it sums over; those of
    # tensors from which it picks entries by index; those that it needs all entries of (a sort).
    axes: tuple[int, ...] = ()
    summed: tuple[int, ...] = ()
    indexed: tuple[int, ...] = ()
    whole: tuple[int, ...] = ()

    @property
    def read_bytes(self) -> dict[str, int]:
        """Bytes read in one run, by tensor."""
        return _by_tensor(self.reads)

    @property
    def write_bytes(self) -> dict[str, int]:
        """Bytes written in one run, by tensor."""
        return _by_tensor(self.writes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What one call of a function holds and does; see the module's docstring.

    Under `shard_map` the counts are those of one device.
    """

    leaves: tuple[Leaf, ...]
    ops: tuple[Op, ...] = ()
    peak_activation_bytes: int = 0  # most bytes of activations alive at once, arguments included
    notes: tuple[str, ...] = ()  # what had to be assumed
    axes: tuple[Axis, ...] = ()  # the logical axes that leaves, ops and accesses name by number
    schema: int = SCHEMA

    @functools.cached_property
    def flops_by_dtype(self) -> dict[str, int]:
        """FLOPs of one call by dtype: a dot's is its operands', whatever it accumulates in."""
        total: dict[str, int] = collections.defaultdict(int)
        for op in self.ops:
            for dtype, flops in op.flops.items():
                total[dtype] += op.count * flops
        return dict(total)

    @property
    def flops(self) -> int:
        """All FLOPs of one call; integer arithmetic counts only in dots and convolutions."""
        return sum(self.flops_by_dtype.values())

    @functools.cached_property
    def dot_flops(self) -> int:
        """FLOPs of one call in matrix products alone: exactly 2·batch·m·n·k each."""
        return sum(op.count * sum(op.flops.values()) for op in self.ops if op.kind == "dot")

    @functools.cached_property
    def weight_bytes(self) -> int:
        """Bytes of weights read in one call, as stored."""
        return self._bytes("reads", "weights")

    @functools.cached_property
    def cache_bytes(self) -> int:
        """Bytes of the KV cache read in one call, as stored."""
        return self._bytes("reads", "cache")

    @functools.cached_property
    def cache_written_bytes(self) -> int:
        """Bytes of the KV cache written in one call, as stored."""
        return self._bytes("writes", "cache")

    @functools.cached_property
    def activation_bytes(self) -> int:
        """Bytes of activations that cross a kernel's border in one call, read and written."""
        return self._bytes("reads", "activations") + self._bytes("writes", "activations")

    @functools.cached_property
    def bytes_by_leaf(self) -> dict[str, int]:
        """Bytes read in one call from each leaf; every leaf is named, unread ones with 0."""
        total = {leaf.path: 0 for leaf in self.leaves}
        for op in self.ops:
            for access in op.reads:
                if access.tensor in total:
                    total[access.tensor] += op.count * access.bytes
        return total

    @functools.cached_property
    def kernels(self) -> int:
        """Kernels launched in one call, after fusing."""
        return sum({op.kernel: op.count for op in self.ops if op.kernel is not None}.values())

    @property
    def collectives(self) -> tuple[Op, ...]:
        """The ops that exchange data between devices, in order."""
        return tuple(op for op in self.ops if op.collective is not None)

    def _bytes(self, field: Literal["reads", "writes"], kind: Kind) -> int:
        return sum(
            op.count * access.bytes
            for op in self.ops
            for access in getattr(op, field)
            if access.kind == kind
        )

    def __add__(self, other: "Work") -> "Work":
        """One after the other."""
        if not isinstance(other, Work):
            return NotImplemented
        from emu.joining import joined  # noqa: PLC0415 (it imports this module)

        both = joined(self, other)
        first = 1 + max((op.kernel for op in self.ops if op.kernel is not None), default=-1)
        moved = (
            op if op.kernel is None else dataclasses.replace(op, kernel=op.kernel + first)
            for op in both.ops[1]
        )
        return Work(
            leaves=_joined(*both.leaves),
            ops=(*both.ops[0], *moved),
            axes=both.axes,
            peak_activation_bytes=max(self.peak_activation_bytes, other.peak_activation_bytes),
            notes=tuple(dict.fromkeys((*self.notes, *other.notes))),
        )

    def __radd__(self, other: Any) -> "Work":
        """So that `sum(works)` works: 0 + work is work."""
        if isinstance(other, int) and other == 0:
            return self
        return NotImplemented

    def __mul__(self, times: int) -> "Work":
        """The same call so many times over."""
        if isinstance(times, bool) or not isinstance(times, int):
            return NotImplemented
        if times < 0:
            raise EmuError(f"work: cannot be done {times} times; give a count of at least 0")
        ops = tuple(dataclasses.replace(op, count=times * op.count) for op in self.ops if times)
        return dataclasses.replace(self, ops=ops)

    __rmul__ = __mul__

    def to_json(self) -> str:
        """One JSON object; `Work.from_json` reads it back."""
        from emu.work_json import dumps  # noqa: PLC0415 (it imports this module)

        return dumps(self)

    @staticmethod
    def from_json(text: str) -> "Work":
        """Read what `to_json` wrote, by this version or an older one; EmuError if it is not one."""
        from emu.work_json import loads  # noqa: PLC0415 (it imports this module)

        return loads(text)

    def __str__(self) -> str:
        from emu.work_table import table  # noqa: PLC0415 (it imports this module)

        return table(self)


def leaves_of(tree: Any, kind: Literal["weights", "cache"] = "weights") -> tuple[Leaf, ...]:
    """The leaves of a tree of arrays or `jax.ShapeDtypeStruct`s, in JAX's order."""
    return tuple(
        Leaf(
            path=leaf_path(path, kind),
            shape=tuple(x.shape),
            dtype=str(getattr(x.dtype, "name", x.dtype)),
            kind=kind,
        )
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
        if hasattr(x, "shape") and hasattr(x, "dtype")
    )


def leaf_path(path: tuple[Any, ...], kind: Literal["weights", "cache"], *first: str) -> str:
    """A leaf's name: its key path, `first` before it; a tree of one array is named by its kind."""
    parts = [part for part in (*first, key_path(path)) if part]
    if kind == "cache":
        return "/".join(("cache", *parts))
    return "/".join(parts) or "weights"


def _by_tensor(accesses: Iterable[Access]) -> dict[str, int]:
    total: dict[str, int] = collections.defaultdict(int)
    for access in accesses:
        total[access.tensor] += access.bytes
    return dict(total)


def _joined(first: tuple[Leaf, ...], second: tuple[Leaf, ...]) -> tuple[Leaf, ...]:
    leaves = {leaf.path: leaf for leaf in first}
    for leaf in second:
        known = leaves.setdefault(leaf.path, leaf)
        if not known.axes and leaf.axes:
            leaves[leaf.path] = known = dataclasses.replace(known, axes=leaf.axes)
        if known != leaf and known != dataclasses.replace(leaf, axes=known.axes):
            raise EmuError(
                f"work: the two works hold different tensors under {leaf.path!r}: "
                f"{known.dtype}{list(known.shape)} and {leaf.dtype}{list(leaf.shape)}; "
                "add works of the same weights, or name them apart"
            )
    return tuple(leaves.values())
