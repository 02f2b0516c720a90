"""A sweep's finished blocks on disk, so that one which was stopped can go on.

A folder with `part-000000.parquet`, one for each block, and `_sweep.json`, which says of what sweep
they are. A part is written under another name and then renamed, so that what has its name is whole.
`pandas.read_parquet(folder)` reads them all.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import emu
from emu.design.block import Block
from emu.errors import EmuError

_ABOUT = "_sweep.json"
_UNDER_WAY = "_writing-"  # Parquet readers pass over names that begin with _


@dataclasses.dataclass(frozen=True, kw_only=True)
class Store:
    """See the module."""

    folder: Path
    finished: frozenset[int]

    @classmethod
    def opened(cls, folder: Path, blocks: Sequence[Block], columns: Sequence[str]) -> "Store":
        """A folder for these blocks; EmuError where it holds another sweep's, or anything else."""
        about = {"blocks": len(blocks), "sweep": _fingerprint(blocks, columns)}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.glob(f"{_UNDER_WAY}*"):  # by a process that was killed
                left.unlink()
            file = folder / _ABOUT
            if file.exists():
                known = json.loads(file.read_text(encoding="utf-8"))
                if known != about:
                    raise EmuError(
                        f"{folder}: holds a sweep of other systems, works or columns: give an "
                        "empty folder, or remove it"
                    )
            elif any(folder.iterdir()):
                raise EmuError(f"{folder}: is not empty and holds no sweep: give an empty folder")
            else:
                part = folder / (_UNDER_WAY + _ABOUT)
                part.write_text(json.dumps(about), encoding="utf-8")
                part.replace(file)
        except (OSError, json.JSONDecodeError) as error:
            raise EmuError(f"{folder}: cannot hold a sweep ({error})") from error
        there = frozenset(
            int(part.stem.removeprefix("part-")) for part in folder.glob("part-*.parquet")
        )
        return cls(folder=folder, finished=there)

    def has(self, number: int) -> bool:
        """Whether a block was there when the folder was opened."""
        return number in self.finished

    def write(self, block: Block, results: Mapping[str, Any]) -> None:
        """One block's rows."""
        path = self.folder / f"part-{block.number:06d}.parquet"
        under_way = self.folder / f"{_UNDER_WAY}{path.name}.{os.getpid()}"
        table = pa.Table.from_pandas(block.frame(results), preserve_index=False)
        pq.write_table(table, under_way, compression="zstd", compression_level=1)
        under_way.replace(path)


def _fingerprint(blocks: Sequence[Block], columns: Sequence[str]) -> str:
    """Of all that decides the numbers: points, systems, traced counts, and this library's code."""
    digest = hashlib.sha256(repr(tuple(columns)).encode())
    for source in sorted(Path(emu.__file__).parent.rglob("*.py")):  # what decides a point's time
        digest.update(source.read_bytes())
    seen: set[int] = set()
    for block in blocks:
        digest.update(repr((block.labels, block.systems.system, block.numbers)).encode())
        for name, values in block.systems.numbers.items():
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(values).tobytes())
        if id(block.family) in seen:
            continue
        seen.add(id(block.family))
        digest.update(repr((block.family.batches, block.family.contexts)).encode())
        for _, tiles in block.family.tiles:
            for tile in tiles:
                digest.update(repr(tile.layout).encode())
                for node in (node for cell in tile.cells for node in cell.nodes):
                    digest.update(node.rows.tobytes() + node.totals.tobytes())
    return digest.hexdigest()
