"""Whole grids of systems and works in one call.

    works × systems × placements  →  families (traced, placed)  →  blocks  →  a table

Tracing is done once for each function shape; blocks are computed in threads or on a Ray cluster,
in bounded memory, and come in the same order whoever computes them. With a folder to write to, each
finished block is a Parquet file there, and a sweep that was stopped goes on with the blocks that
are missing.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from emu.design.block import Block, known_columns
from emu.design.counts import Array
from emu.design.executors import Executor, check_executor, computed
from emu.design.family import Rules, family, is_capacity
from emu.design.grid import SystemGrid, WorkGrid
from emu.design.store import Store
from emu.errors import EmuError
from emu.system import System
from emu.work import Work

BLOCK_POINTS = 1 << 18


def sweep(
    works: WorkGrid,
    systems: Sequence[System | SystemGrid],
    placements: Mapping[str, Rules] | Sequence[str],
    *,
    to: Path | str | None = None,
    columns: Sequence[str] | None = None,
    executor: Executor = "threads",
    progress: bool = True,
) -> pd.DataFrame | Path:
    """Every point of a grid: see `Block.results` for the columns.

    Args:
      works: what runs, by batch, context and shape.
      systems: what it runs on.
      placements: policies, or rules by the name that the table has for them.
      to: a folder to write Parquet files to, which is returned; None: returns a table.
      columns: of the results, which to keep; None: all. `position` is a system's in its grid.
      executor: "threads" of this process, or "ray" (the extra `ray`): its cluster's workers, or
        those of this machine if none is connected. A lost worker's blocks are computed again.
      progress: show a bar.

    Raises:
      EmuError: a work that cannot be spread over a system or placed by the rules, a folder that
        another sweep was written to.
    """
    kept = known_columns(columns)
    check_executor(executor)
    blocks = list(blocks_of(works, systems, placements))
    store = None if to is None else Store.opened(Path(to), blocks, kept)
    waiting = [block for block in blocks if store is None or not store.has(block.number)]
    with tqdm(
        total=sum(map(len, blocks)), unit="point", unit_scale=True, disable=not progress
    ) as bar:
        bar.update(sum(map(len, blocks)) - sum(map(len, waiting)))
        frames = []
        for block, results in computed(waiting, kept, executor):
            if store is None:
                frames.append(block.frame(results))
            else:
                store.write(block, results)
            bar.update(len(block))
    if store is not None:
        return store.folder
    return _joined(frames)


def blocks_of(
    works: WorkGrid,
    systems: Sequence[System | SystemGrid],
    placements: Mapping[str, Rules] | Sequence[str],
    block_points: int = BLOCK_POINTS,
) -> Iterator[Block]:
    """All blocks of a sweep; traces and places what they need, family by family."""
    named, grids = _checked(works, systems, placements)
    numbers = tuple(dict.fromkeys(name for grid in grids for name in grid.numbers))
    most = max(1, block_points // len(works.batch))
    contexts = [works.context[i : i + most] for i in range(0, len(works.context), most)]
    number = 0
    for shape in works.each_shape():
        remembered = Remembered(works=works, shape=shape)
        for grid, (name, rules) in itertools.product(grids, named.items()):
            labels = {"system": grid.name, "placement": name, **shape}
            for rows, some in itertools.product(_placed_alike(grid, rules), contexts):
                part = grid.rows(rows)
                made = family(remembered.on(grid.system), works.batch, some, part, rules)
                each = max(1, block_points // (len(works.batch) * len(some)))
                for first in range(0, len(rows), each):
                    yield Block(
                        number=number,
                        family=made,
                        systems=part.rows(slice(first, first + each)),
                        positions=rows[first : first + each],
                        numbers=numbers,
                        labels=labels,
                    )
                    number += 1


def _checked(
    works: WorkGrid,
    systems: Sequence[System | SystemGrid],
    placements: Mapping[str, Rules] | Sequence[str],
) -> tuple[dict[str, Rules], list[SystemGrid]]:
    """Placements by name, and grids. Raises EmuError for what is none."""
    if isinstance(placements, str) or isinstance(systems, System | SystemGrid):
        raise EmuError("design: systems and placements are lists, of one thing too")
    if not isinstance(works, WorkGrid):
        raise EmuError(f"design: works must be a WorkGrid, not of {type(works).__name__}")
    systems = list(systems)
    if wrong := [s for s in systems if not isinstance(s, System | SystemGrid)]:
        raise EmuError(
            f"design: systems are of emu.System or SystemGrid, not of {type(wrong[0]).__name__}"
        )
    if not isinstance(placements, Mapping) and any(not isinstance(p, str) for p in placements):
        raise EmuError("design: rules need a name for the table: placements={'mine': rules}")
    named: dict[str, Rules] = (
        dict(placements) if isinstance(placements, Mapping) else {p: p for p in placements}
    )
    grids = [s if isinstance(s, SystemGrid) else SystemGrid(system=s) for s in systems]
    if not grids or not named:
        raise EmuError("design: a sweep needs a system and a placement at least")
    for grid in grids:
        grid.check()
    names = [grid.name for grid in grids]
    if twice := [name for name in names if names.count(name) > 1]:
        raise EmuError(f"design: two systems are called {twice[0]!r}: give a SystemGrid(name=…)")
    taken = {"system", "placement", "batch", "context", "position"}
    if clash := sorted(taken & set(works.shapes)):
        raise EmuError(f"design: a shape cannot be called {clash[0]!r}: a column is")
    return named, grids


def _placed_alike(grid: SystemGrid, rules: Rules) -> list[Array]:
    """Positions in the grid, in parts on which rules put every leaf into the same memory: "fit"
    places anew for each set of capacities.
    """
    varied = [values for name, values in grid.numbers.items() if is_capacity(name)]
    if rules != "fit" or not varied:
        return [np.arange(len(grid))]
    _, of, counts = np.unique(
        np.stack(varied, axis=1), axis=0, return_inverse=True, return_counts=True
    )
    order = np.argsort(of.ravel(), kind="stable")
    return list(np.split(order, np.cumsum(counts)[:-1]))


@dataclasses.dataclass(kw_only=True)
class Remembered:
    """The works of one shape, each traced once whatever it is placed on."""

    works: WorkGrid
    shape: Mapping[str, Any]
    traced: dict[tuple[int, int], Work] = dataclasses.field(default_factory=dict)

    def on(self, system: System) -> Callable[[int, int], Work]:
        """The work of a batch of the whole system, and a context, as the system's degrees want it:
        of the whole batch where they spread it, else of one replica's part.
        """
        replicas = system.data if system.ranks is None else 1

        def work_at(batch: int, context: int) -> Work:
            if batch % replicas:
                raise EmuError(
                    f"design: a batch of {batch} does not divide over data={replicas} replicas"
                )
            key = (batch // replicas, context)
            if key not in self.traced:
                work = self.works.work(batch=key[0], context=context, **dict(self.shape))
                if not isinstance(work, Work):
                    raise EmuError(f"design: WorkGrid.work must give an emu.Work, not {work!r}")
                self.traced[key] = work
            return self.traced[key]

        return work_at


def _joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One table; categories of all of them together."""
    names = [n for n in frames[0].columns if isinstance(frames[0][n].dtype, pd.CategoricalDtype)]
    every = {
        name: list(dict.fromkeys(c for frame in frames for c in frame[name].cat.categories))
        for name in names
    }
    alike = (
        frame.assign(**{name: frame[name].cat.set_categories(every[name]) for name in names})
        for frame in frames
    )
    return pd.concat(alike, ignore_index=True)
