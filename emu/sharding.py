"""A spread work on real devices: a mesh, and for each leaf how it lies over it.

What `emu.spread` splits on paper is split here by the same rules: an axis goes over the same ranks,
so that the exchanges which XLA's partitioner puts in are those that the clock charges. The mesh has
the axes `data`, `expert` and `tensor`, as far as their degrees exceed 1; an axis of which some
leaves use only the first part (heads of keys that are fewer than ranks) is several: `tensor_0`,
`tensor_1`.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from emu.errors import EmuError
from emu.ranks import Ranks
from emu.splits import Chosen, Split, choose
from emu.system import System
from emu.work import Leaf, Work, leaf_path

Kind = Literal["weights", "cache"]
_Span = tuple[int, int]  # of ranks: a leaf's dimension is split by end/start, from start on


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """Where each leaf of a work lies on a mesh of devices."""

    mesh: Mesh
    specs: Mapping[str, PartitionSpec]  # by key path; a cache's begin with cache/
    batch: PartitionSpec  # of what has one row for each sequence, such as tokens

    def shardings(self, tree: Any, kind: Kind = "weights") -> Any:
        """The sharding of each leaf of a tree of weights, or of a cache, as a tree like it."""

        def of(path: Any, _: Any) -> NamedSharding:
            return NamedSharding(self.mesh, self.specs.get(leaf_path(path, kind), PartitionSpec()))

        return jax.tree_util.tree_map_with_path(of, tree)

    def put(self, tree: Any, kind: Kind = "weights") -> Any:
        """The tree with each leaf laid over the devices. On several hosts, each has all of it."""
        return jax.tree.map(_put, tree, self.shardings(tree, kind))

    def rows(self, array: Any) -> jax.Array:
        """An array with one row for each sequence, laid over the devices."""
        return _put(array, NamedSharding(self.mesh, self.batch))


def shard(
    work: Work,
    system: System | Ranks,
    splits: Sequence[Split] = (),
    devices: Sequence[jax.Device] | None = None,
) -> Layout:
    """Lays a work over devices as `emu.spread` spreads it over a system's ranks.

    Args:
      work: of the whole batch, from `emu.trace`.
      system: its degrees, or the ranks alone, of chips that are not known yet; each rank is one
        device.
      splits: ordered rules for single leaves, over what the work itself suggests.
      devices: as many as there are ranks; None: the first of all that JAX has.

    Raises:
      EmuError: sizes that the degrees do not divide; too few devices; pipeline stages, which are
        programs of their own and no axis of a mesh.
    """
    ranks = system if isinstance(system, Ranks) else system.ranks or Ranks(data=system.data)
    if ranks.pipeline > 1:
        raise EmuError("shard: pipeline stages are no axis of a mesh: take tensor, expert or data")
    chosen = choose(work, ranks, splits)
    devices = jax.devices() if devices is None else devices
    if len(devices) < ranks.count:
        raise EmuError(
            f"shard: {ranks.count} ranks need as many devices, and there are {len(devices)}: lower "
            "tensor=, expert= or data="
        )
    spans = {leaf.path: list(_spans(leaf, chosen, ranks)) for leaf in work.leaves}
    first = 1 if ranks.regrouped else ranks.expert
    named = {"data": ranks.data, "expert": first, "tensor": ranks.tensor}
    axes = _axes([span for dims in spans.values() for dim in dims for span in dim], named)
    mesh = Mesh(
        np.asarray(devices[: ranks.count]).reshape([size for _, size in axes.values()]),
        tuple(axes),
    )
    return Layout(
        mesh=mesh,
        specs={
            path: PartitionSpec(*(_names(axes, dim) for dim in dims))
            for path, dims in spans.items()
        },
        batch=PartitionSpec(_names(axes, [(1, ranks.data)])),
    )


def _spans(leaf: Leaf, chosen: Chosen, ranks: Ranks) -> Iterator[list[_Span]]:
    """For each dimension, the spans of ranks that it is split over, major first.

    Ranks are counted as they lie: replicas, within them experts that are an axis of their own,
    within those tensor ranks. Regrouped experts take the first of all ranks, and what an expert is
    split into the last.
    """
    outer = ranks.data * (1 if ranks.regrouped else ranks.expert)
    routed = leaf.path in chosen.axes.routed
    for axes in leaf.axes or ((),) * len(leaf.shape):
        spans = []
        inner = ranks.count // ranks.per_expert if routed and ranks.regrouped else outer
        for axis in axes:
            degree = chosen.leaf_degree(leaf.path, axis)
            if degree == 1:
                continue
            if axis == chosen.axes.batch:
                spans.append((1, degree))
            elif axis in chosen.axes.experts:
                start = 1 if ranks.regrouped else ranks.data
                spans.append((start, start * degree))
            else:
                spans.append((inner, inner * degree))
                inner *= degree
        yield spans


def _axes(spans: Iterable[_Span], named: Mapping[str, int]) -> dict[str, _Span]:
    """The mesh's axes, major first: by name, where each starts and its size.

    Raises EmuError where spans overlap without one boundary dividing the next.
    """
    bounds = {1, *(bound for span in spans for bound in span)}
    ends = {}
    at = 1
    for name, size in named.items():
        at *= size
        bounds.add(at)
        ends[name] = at
    ordered = sorted(bounds)
    pieces: dict[str, list[_Span]] = {}
    for low, high in itertools.pairwise(ordered):
        if high % low:
            raise EmuError(
                f"shard: some weights are split over {low} ranks and others over {high}, which no "
                "mesh of devices does: take degrees of which one divides the other"
            )
        name = next(name for name, end in ends.items() if high <= end)
        pieces.setdefault(name, []).append((low, high // low))
    if not pieces:
        return {"tensor": (1, 1)}
    return {
        name if len(parts) == 1 else f"{name}_{number}": part
        for name, parts in pieces.items()
        for number, part in enumerate(parts)
    }


def _names(axes: Mapping[str, _Span], spans: Iterable[_Span]) -> tuple[str, ...] | None:
    """The mesh's axes that make up these spans of ranks."""
    names = tuple(
        name
        for start, end in spans
        for name, (at, size) in axes.items()
        if size > 1 and start <= at and at * size <= end
    )
    assert math.prod(axes[name][1] for name in names) == math.prod(e // s for s, e in spans)
    return names or None


def _put(array: Any, sharding: NamedSharding) -> jax.Array:
    if isinstance(array, jax.Array) and array.sharding == sharding:
        return array
    put: jax.Array
    if jax.process_count() == 1:
        put = jax.device_put(array, sharding)
        return put
    host = np.asarray(array)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])
