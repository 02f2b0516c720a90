"""Whole grids of systems and works in one call.

    works × systems × placements  →  families (traced, placed)  →  blocks  →  a table

Tracing is done once for each function shape; blocks are computed in threads or on a Ray cluster,
in bounded memory, and come in the same order whoever computes them. With a folder to write to, each
finished block is a Parquet file there, and a sweep that was stopped goes on with the blocks that
are missing.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from tqdm import tqdm

from emu.design.block import Block
from emu.design.executors import in_ray, in_threads
from emu.design.family import Rules, family, is_capacity
from emu.design.grid import SystemGrid, WorkGrid
from emu.design.store import Store
from emu.errors import EmuError
from emu.system import System
from emu.work import Work

Executor = Literal["threads", "ray"]

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
      columns: of the results, which to keep; None: all.
      executor: "threads" of this process, or "ray" (the extra `ray`): its cluster's workers, or
        those of this machine if none is connected. A lost worker's blocks are computed again.
      progress: show a bar.

    Raises:
      EmuError: a work that cannot be spread over a system or placed by the rules, a folder that
        another sweep was written to.
    """
    blocks = list(blocks_of(works, systems, placements))
    store = None if to is None else Store.opened(Path(to), blocks, columns)
    waiting = [block for block in blocks if store is None or not store.has(block.number)]
    with tqdm(
        total=sum(map(len, blocks)), unit="point", unit_scale=True, disable=not progress
    ) as bar:
        bar.update(sum(map(len, blocks)) - sum(map(len, waiting)))
        frames = []
        for block, results in computed(waiting, columns, executor):
            if store is None:
                frames.append(block.frame(results))
            else:
                store.write(block, results)
            bar.update(len(block))
    if store is not None:
        return store.folder
    return _joined(frames)


def computed(
    blocks: Sequence[Block], columns: Sequence[str] | None, executor: Executor = "threads"
) -> Iterator[tuple[Block, dict[str, Any]]]:
    """Each block's results, in order, a few blocks under way at once."""
    run = {"threads": in_threads, "ray": in_ray}.get(executor)
    if run is None:
        raise EmuError(f"design: executor is 'threads' or 'ray', not {executor!r}")
    return run(blocks, columns)


def blocks_of(
    works: WorkGrid,
    systems: Sequence[System | SystemGrid],
    placements: Mapping[str, Rules] | Sequence[str],
    block_points: int = BLOCK_POINTS,
) -> Iterator[Block]:
    """All blocks of a sweep; traces and places what they need, family by family."""
    named = placements if isinstance(placements, Mapping) else {p: p for p in placements}
    if not systems or not named:
        raise EmuError("design: a sweep needs a system and a placement at least")
    number = 0
    for shape in works.each_shape():
        remembered = Remembered(works, shape)
        for grid in (s if isinstance(s, SystemGrid) else SystemGrid(system=s) for s in systems):
            for name, rules in named.items():
                for part in _placed_alike(grid, rules):
                    work_at = remembered.on(grid.system)
                    made = family(work_at, works.batch, works.context, part, rules)
                    labels = {"system": grid.name, "placement": name, **shape}
                    each = max(1, block_points // (len(works.batch) * len(works.context)))
                    for first in range(0, len(part), each):
                        some = part.rows(slice(first, first + each))
                        yield Block(number=number, family=made, systems=some, labels=labels)
                        number += 1


def _placed_alike(grid: SystemGrid, rules: Rules) -> Iterator[SystemGrid]:
    """The grid in parts on which rules put every leaf into the same memory: "fit" places anew for
    each set of capacities.
    """
    varied = [values for name, values in grid.numbers.items() if is_capacity(name)]
    if rules != "fit" or not varied:
        yield grid
        return
    _, of, counts = np.unique(
        np.stack(varied, axis=1), axis=0, return_inverse=True, return_counts=True
    )
    order = np.argsort(of.ravel(), kind="stable")
    for rows in np.split(order, np.cumsum(counts)[:-1]):
        yield grid.rows(rows)


@dataclasses.dataclass(frozen=True, kw_only=False)
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
                self.traced[key] = self.works.work(
                    batch=key[0], context=context, **dict(self.shape)
                )
            return self.traced[key]

        return work_at


def _joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One table; categories of all of them together."""
    names = [n for n in frames[0].columns if isinstance(frames[0][n].dtype, pd.CategoricalDtype)]
    for name in names:
        every = list(dict.fromkeys(c for frame in frames for c in frame[name].cat.categories))
        for frame in frames:
            frame[name] = frame[name].cat.set_categories(every)
    return pd.concat(frames, ignore_index=True)


def count_points(works: WorkGrid, systems: Sequence[System | SystemGrid], placements: int) -> int:
    """Points of a sweep."""
    shapes = math.prod(len(values) for values in works.shapes.values())
    grids = sum(len(s) if isinstance(s, SystemGrid) else 1 for s in systems)
    return len(works.batch) * len(works.context) * shapes * grids * placements
