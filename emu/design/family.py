"""A grid of works placed on a grid of systems: all that a block of points is computed from.

Which memory activations go through depends on what has room for them, and so on a point's
capacities, batch and context. Each memory that any point of the grid needs for them has cells of
its own; at a point the first of them with room counts, as `emu.place` has it. With the policy
"fit" the weights' places depend on capacities too: there a family has one set of them.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
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
_TILE = 1 << 16  # points at once: below, calls cost more than what they compute
_MOST_ROWS = 64  # of them, batches and contexts at most


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Tiles:
    """Cells of one layout, and all their points, a point being a batch and a context."""

    layout: Layout
    cells: tuple[Cell, ...]
    points: Array  # [points, 2]: batch, context
    cell_of: Array  # [points]

    @classmethod
    def of(cls, found: Sequence[Cell]) -> "Tiles":
        """Cells of equal layouts."""
        points, cell_of = [], []
        for i, cell in enumerate(found):
            axes = np.meshgrid(cell.batches, cell.contexts, indexing="ij")
            points.append(np.stack(axes, axis=-1).reshape(-1, 2))
            cell_of += [i] * len(points[-1])
        return cls(
            layout=found[0].corners[0].layout,
            cells=tuple(found),
            points=np.concatenate(points),
            cell_of=np.array(cell_of),
        )

    def rows(self, which: Array) -> tuple[Array, Array]:
        """Counts [kernels, columns, points] and totals [totals, points] of some points."""
        points, cell_of = self.points[which], self.cell_of[which]
        node = self.cells[0].corners[0]
        rows = np.empty((*node.rows.shape, len(which)))
        totals = np.empty((*node.totals.shape, len(which)))
        for i in np.unique(cell_of):
            here = np.flatnonzero(cell_of == i)
            rows[..., here], totals[..., here] = self.cells[i].at(*points[here].T)
        return rows, totals


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """See the module. `tiles`: for each memory that activations go through, in their order."""

    batches: tuple[int, ...]
    contexts: tuple[int, ...]
    tiles: tuple[tuple[int, tuple[Tiles, ...]], ...]  # (memory, cells by layout)

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
            scratch=np.full(shape, scratch, np.int8),
        )
        batch_at = {batch: i for i, batch in enumerate(self.batches)}
        context_at = {context: i for i, context in enumerate(self.contexts)}
        for tile in parts:
            where = np.array([(batch_at[b], context_at[c]) for b, c in tile.points.tolist()]).T
            _fill(out, tile, systems, scratch, where)
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

        found = _by_layout(
            cell for some in _alike(base, batches) for cell in cells(counts_at, some, contexts)
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


def _by_layout(found: Iterable[Cell]) -> tuple[Tiles, ...]:
    alike: dict[object, list[Cell]] = {}
    for cell in found:
        alike.setdefault(cell.layout, []).append(cell)
    return tuple(Tiles.of(some) for some in alike.values())


def _always_room(found: tuple[Tiles, ...], systems: SystemGrid, scratch: int) -> bool:
    least = _extreme(systems, np.min)
    return all(np.all(_missing(tile, least, scratch) <= 0) for tile in found)


def _ever_room(found: tuple[Tiles, ...], systems: SystemGrid, scratch: int) -> bool:
    most = _extreme(systems, np.max)
    return any(np.any(_missing(tile, most, scratch) <= 0) for tile in found)


def _missing(tile: Tiles, system: System, scratch: int) -> Array:
    _, totals = tile.rows(np.arange(len(tile.points)))
    return missing_bytes(totals, system, scratch, np)[scratch]


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


def _fill(out: Steps, tile: Tiles, systems: SystemGrid, scratch: int, where: Array) -> None:
    """Writes the steps of a layout's points to arrays [batches, contexts, systems], where [2] they
    are there.
    """
    points, count = len(tile.points), len(systems)
    few = points * count <= _FEW
    rows = min(points, _MOST_ROWS)
    columns = count if few else min(_power_of_two(count), _power_of_two(_TILE // rows))
    plain = functools.partial(steps, tile.layout, scratch=scratch, xp=np)
    run = plain if few else _compiled(tile.layout, scratch)
    for i in range(0, points, rows):
        counts, totals = (of[..., None] for of in tile.rows(_padded(i, points, rows)))
        for j in range(0, count, columns):
            some = systems.rows(_padded(j, count, columns)).with_arrays()
            with jax.enable_x64(True):
                made = run(counts, totals, some)
            _write(out, made, where[:, i : i + rows], slice(j, j + columns))


def _write(out: Steps, made: Steps, where: Array, columns: slice) -> None:
    """Points and systems of a tile; padding beyond the end is dropped."""
    for whole, part in zip(jax.tree.leaves(out), jax.tree.leaves(made), strict=True):
        width = whole[..., columns].shape[-1]
        whole[where[0], where[1], columns] = np.asarray(part)[: where.shape[1], :width]


@functools.lru_cache(maxsize=256)
def _compiled(layout: Layout, scratch: int) -> Callable[..., Steps]:
    return jax.jit(functools.partial(steps, layout, scratch=scratch, xp=jnp))


def _padded(first: int, count: int, size: int) -> Array:
    """`size` positions from the first on; beyond the end the last one again."""
    return np.minimum(np.arange(first, first + size), count - 1)


def _power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()
