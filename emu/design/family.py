"""A grid of works placed on a grid of systems: all that a block of points is computed from.

Which memory activations go through depends on what has room for them, and so on a point's
capacities, batch and context. Each memory that any point of the grid needs for them has cells of
its own; at a point the first of them with room counts, as `emu.place` has it. With the policy
"fit" the weights' places depend on capacities too: there a family has one set of them.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from emu.design.cells import Cell, cells
from emu.design.counts import Array, Counts, Layout, counts_of
from emu.design.grid import SystemGrid
from emu.design.rowwise import Steps, missing_bytes, steps
from emu.placement import place
from emu.rules import Rule
from emu.system import System
from emu.timeline import PARTS
from emu.timing import check
from emu.work import Work

Rules = str | Sequence[Rule | Sequence[str]]

_FEW = 20_000  # points for which compiling would take longer than NumPy
_TILE = 1 << 14  # points at once: what is computed of them stays in a core's cache
_MOST_ROWS = 64  # of them, batches and contexts at most


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Tiles:
    """A cell's corners as arrays."""

    layout: Layout
    batches: tuple[int, ...]
    contexts: tuple[int, ...]
    corners: Array  # [kernels, 4, columns]
    totals: Array  # [4, totals]
    weights: Array  # [4, batches x contexts]

    @classmethod
    def of(cls, cell: Cell) -> "Tiles":
        """The cell's."""
        batch, context = np.meshgrid(
            np.array(cell.batches, np.float64), np.array(cell.contexts, np.float64), indexing="ij"
        )
        return cls(
            layout=cell.corners[0].layout,
            batches=cell.batches,
            contexts=cell.contexts,
            corners=np.stack([corner.rows for corner in cell.corners], axis=1),
            totals=np.stack([corner.totals for corner in cell.corners]),
            weights=cell.weights(batch, context).reshape(4, -1),
        )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """See the module. `tiles`: for each memory that activations go through, in their order."""

    batches: tuple[int, ...]
    contexts: tuple[int, ...]
    tiles: tuple[tuple[int, tuple[Tiles, ...]], ...]  # (memory, cells)

    def steps(self, systems: SystemGrid) -> Steps:
        """Steps of arrays [batches, contexts, systems]."""
        found: Steps | None = None
        for scratch, parts in self.tiles:
            here = self._at(systems, scratch, parts)
            if found is not None:  # where the memory before has no room
                full = found.missing_scratch > 0
                here = jax.tree.map(functools.partial(np.where, full), here, found)
            found = here
        assert found is not None
        return found

    def _at(self, systems: SystemGrid, scratch: int, parts: tuple[Tiles, ...]) -> Steps:
        shape = (len(self.batches), len(self.contexts), len(systems))
        floats = [np.empty(shape) for _ in range(3 + len(PARTS))]
        out = Steps(
            seconds=floats[0],
            parts=tuple(floats[3:]),
            binds=np.empty(shape, np.int8),
            missing=floats[1],
            missing_scratch=floats[2],
        )
        for tile in parts:
            where = [self.batches.index(batch) for batch in tile.batches]
            first = self.contexts.index(tile.contexts[0])
            _fill(out, tile, systems, scratch, where, first)
        return out


def family(
    work_at: Callable[[int, int], Work],
    batches: Sequence[int],
    contexts: Sequence[int],
    systems: SystemGrid,
    rules: Rules,
) -> Family:
    """Trace, place and cut into cells.

    Args:
      work_at: of a batch and a context; it should remember.
      batches, contexts: rising.
      systems: under the policy "fit", all of equal capacities.
      rules: as for `emu.place`.

    Raises EmuError where the work cannot be spread over the system or placed by the rules.
    """
    base = systems.one(0)
    memories = base.chip.memories
    near = [i for i, m in enumerate(memories) if m.placement == "on-chip"]
    far = [i for i, m in enumerate(memories) if m.placement == "off-chip"]
    order = [*near, *(far or near)[:1]]
    tiles: list[tuple[int, tuple[Tiles, ...]]] = []
    for n, scratch in enumerate(order):

        def counts_at(batch: int, context: int, memory: str = memories[scratch].name) -> Counts:
            work = work_at(batch, context)
            placement = place(work, base, rules, True, memory)
            check(base, placement)
            return counts_of(work, placement)

        found = tuple(
            Tiles.of(cell)
            for some in _alike(base, batches)
            for cell in cells(counts_at, some, contexts)
        )
        if n + 1 < len(order) and not _ever_room(found, systems, scratch):
            continue
        tiles.append((scratch, found))
        if _always_room(found, systems, scratch):
            break
    return Family(batches=tuple(batches), contexts=tuple(contexts), tiles=tuple(tiles))


def _alike(system: System, batches: Sequence[int]) -> list[tuple[int, ...]]:
    """Batches between which counts may be interpolated.

    Those that replicas share evenly are; each other one is traced by itself, where the stack pads
    it, or refused.
    """
    even = tuple(batch for batch in batches if batch % system.data == 0)
    odd = [(batch,) for batch in batches if batch % system.data]
    return [*([even] if even else []), *odd]


def _always_room(found: tuple[Tiles, ...], systems: SystemGrid, scratch: int) -> bool:
    least = _extreme(systems, np.min)
    return all(np.all(_missing(tile, least, scratch) <= 0) for tile in found)


def _ever_room(found: tuple[Tiles, ...], systems: SystemGrid, scratch: int) -> bool:
    most = _extreme(systems, np.max)
    return any(np.any(_missing(tile, most, scratch) <= 0) for tile in found)


def _missing(tile: Tiles, system: System, scratch: int) -> Array:
    return missing_bytes(tile.weights, tile.totals, system, scratch, np)[scratch]


def _extreme(systems: SystemGrid, of: Callable[[Array], Any]) -> System:
    """The system with the least, or the most, of each capacity."""
    numbers = {k: np.array([of(v)]) for k, v in systems.numbers.items() if is_capacity(k)}
    if "stack/reserve_share" in systems.numbers:
        kept = systems.numbers["stack/reserve_share"]
        numbers["stack/reserve_share"] = np.array([kept.max() if of is np.min else kept.min()])
    return dataclasses.replace(systems, numbers=numbers).with_arrays()


def is_capacity(name: str) -> bool:
    """Whether a number decides what fits."""
    return name.endswith("/capacity_bytes") or name == "stack/reserve_share"


def _fill(
    out: Steps,
    tile: Tiles,
    systems: SystemGrid,
    scratch: int,
    batches: Sequence[int],
    context: int,
) -> None:
    """Writes a cell's steps to arrays [batches, contexts, systems], where its batches are and from
    its first context on.
    """
    points, count = tile.weights.shape[1], len(systems)
    at = [(b, context + c) for b in batches for c in range(len(tile.contexts))]
    if points * count <= _FEW:
        made = steps(
            tile.layout,
            tile.corners,
            tile.totals,
            tile.weights[:, :, None],
            systems.with_arrays(),
            scratch,
            np,
        )
        _write(out, made, range(points), slice(0, count), at)
        return
    rows = min(points, _MOST_ROWS)
    columns = min(_power_of_two(count), _power_of_two(_TILE // rows))
    run = _compiled(tile.layout, scratch)
    for j in range(0, count, columns):
        some = systems.rows(_padded(j, count, columns)).with_arrays()
        for i in range(0, points, rows):
            weights = tile.weights[:, _padded(i, points, rows), None]
            with jax.enable_x64(True):
                made = run(tile.corners, tile.totals, weights, some)
            _write(out, made, range(i, min(i + rows, points)), slice(j, j + columns), at)


def _write(
    out: Steps, made: Steps, rows: range, columns: slice, at: Sequence[tuple[int, int]]
) -> None:
    """Rows (batches x contexts, which lie `at` places of the arrays) and systems of some points;
    padding beyond the end is dropped.
    """
    for whole, part in zip(jax.tree.leaves(out), jax.tree.leaves(made), strict=True):
        width = whole[..., columns].shape[-1]
        values = np.broadcast_to(part, (np.shape(part)[0], np.shape(part)[1]))
        for row in rows:
            b, c = at[row]
            whole[b, c, columns] = values[row - rows.start, :width]


@functools.lru_cache(maxsize=256)
def _compiled(layout: Layout, scratch: int) -> Callable[..., Steps]:
    return jax.jit(functools.partial(steps, layout, scratch=scratch, xp=jnp))


def _padded(first: int, count: int, size: int) -> Array:
    """`size` positions from the first on; beyond the end the last one again."""
    return np.minimum(np.arange(first, first + size), count - 1)


def _power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()
