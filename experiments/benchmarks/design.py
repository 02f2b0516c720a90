"""How many points of a design space a second, and whether they are those of `emu.predict`.

Llama-3.1-8B and gpt-oss-120b on eight H100 under vLLM, over chips' numbers, batches and contexts,
with capacity checks and the step's parts. `large` writes 10⁸ points to disk in a process of its own
that is stopped on the way, and started again:

    python -m experiments.benchmarks.design FOLDER    # that process
"""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

import emu
from emu.design import Block, SystemGrid, blocks_of, computed, numbers_of, sweep
from experiments.deployment import Served
from experiments.design.stepped import decode_grid
from experiments.errors import ExperimentError

MODELS = {
    "llama-3.1-8b": Served(model="llama-3.1-8b", weights="fp8", kv="fp8"),
    "gpt-oss-120b": Served(model="gpt-oss-120b", weights="mxfp4-moe", kv="fp8"),
}
BATCH = (1, 2, 4, 8)
CONTEXT = tuple(range(1000, 17000, 1000))
SYSTEMS = 40_000  # of one family: with the others 2.6 million points
ROUNDS = 5
CHECKED = 1000
ONE_BY_ONE = 200
WANTED = 2e6  # points a second
MOST_OFF = 1e-6
LARGE = 10**8
MOST_BYTES = 2e9
_VARIED = ("bandwidth_bytes_per_s", "latency_s", "kernel_s", "float8", "bfloat16", "power_w")

Row = dict[str, Any]


def rows() -> Iterator[Row]:
    """Points a second against predictions one at a time, and how far off the worst point is."""
    for name, served in MODELS.items():
        blocks = list(
            blocks_of(decode_grid(served, BATCH, CONTEXT), [_grid(SYSTEMS)], ["off-chip"])
        )
        points = sum(map(len, blocks))
        worst = _checked(served, next(computed(blocks[:1], None)))
        rates, ones = [], []
        for _ in range(ROUNDS):
            ones.append(_one_by_one(served, blocks[0]))
            start = time.perf_counter()
            for _, _results in computed(blocks, None):
                pass
            rates.append(points / (time.perf_counter() - start))
        yield {
            "name": f"sweep_{name}",
            "value": float(np.median(rates)),
            "unit": "points/s",
            "against": "emu.predict, one at a time",
            "against_value": float(np.median(ones)),
            "ratio": float(np.median(np.array(rates) / np.array(ones))),
            "ratio_wanted": float(np.median(rates)) / WANTED,
            "samples": ROUNDS,
            "low": min(rates),
            "high": max(rates),
        }
        yield {
            "name": f"sweep_{name}_worst_of_{CHECKED}",
            "value": worst,
            "unit": "relative difference",
            "against": f"{MOST_OFF:g}",
            "ratio": worst / MOST_OFF,
            "samples": CHECKED,
        }


def large() -> Iterator[Row]:
    """10⁸ points written in bounded memory, by a process that is killed and started again."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "experiments.benchmarks.design", folder]
        first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while first.poll() is None and len(list(Path(folder).glob("part-*.parquet"))) < 20:
            time.sleep(0.2)
        first.send_signal(signal.SIGKILL)
        first.wait()
        kept = len(list(Path(folder).glob("part-*.parquet")))
        if kept < 20 or first.returncode != -signal.SIGKILL:
            raise ExperimentError(f"bench: the sweep to be killed ended by itself ({kept} parts)")
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - start
        said = json.loads(done.stdout.splitlines()[-1])
        parts = Path(folder).glob("part-*.parquet")
        written = sum(pq.read_metadata(part).num_rows for part in parts)
        if written != said["points"]:
            raise ExperimentError(f"bench: {written:,} rows of {said['points']:,} were written")
    yield {
        "name": "sweep_large_memory",
        "value": said["most_bytes"] / 1e6,
        "unit": "MB",
        "against": f"{MOST_BYTES / 1e6:g} MB",
        "ratio": said["most_bytes"] / MOST_BYTES,
        "samples": 1,
        "points": said["points"],
        "seconds": seconds,
        "blocks_kept_from_the_killed_run": kept,
    }


def _system() -> emu.System:
    return emu.System(emu.chip("h100"), chips=8, tensor=8, stack="vllm-0.19")


def _grid(count: int) -> SystemGrid:
    rng = np.random.default_rng(0)
    numbers = {
        name: value * np.exp(rng.uniform(-1, 1, count))
        for name, value in numbers_of(_system())
        if name.startswith("chip/") and name.endswith(_VARIED) and 0 < value < np.inf
    }
    return SystemGrid(system=_system(), numbers=numbers)


def _checked(served: Served, computed_block: tuple[Block, dict[str, Any]]) -> float:
    """The largest relative difference of a thousand random points' steps."""
    block, results = computed_block
    rng = np.random.default_rng(1)
    shape, worst = results["step_s"].shape, 0.0
    works = decode_grid(served, BATCH, CONTEXT)
    placed: dict[tuple[int, int], tuple[emu.Work, emu.Placement]] = {}
    for _ in range(CHECKED):
        i, j, k = (int(rng.integers(n)) for n in shape)
        if (i, j) not in placed:
            work = works.work(batch=BATCH[i], context=CONTEXT[j])
            placed[i, j] = (work, emu.place(work, _system(), "off-chip", True))
        work, placement = placed[i, j]
        timeline = emu.predict(work, block.systems.one(k), placement)
        found = [results["step_s"], *(results[f"{part}_s"] for part in timeline.breakdown)]
        direct = [timeline.seconds, *timeline.breakdown.values()]
        off = [abs(float(a[i, j, k]) - float(b)) for a, b in zip(found, direct, strict=True)]
        worst = max(worst, max(off) / float(timeline.seconds))
        if bool(results["fits"][i, j, k]) != (not placement.excess_bytes):
            raise ExperimentError("bench: a point of the sweep fits where emu.place says otherwise")
    return worst


def _one_by_one(served: Served, block: Block) -> float:
    """Predictions a second, each of another system."""
    work = decode_grid(served, BATCH, CONTEXT).work(batch=BATCH[0], context=CONTEXT[0])
    placement = emu.place(work, _system(), "off-chip", True)
    systems = [block.systems.one(k) for k in range(ONE_BY_ONE)]
    emu.predict(work, systems[0], placement)
    start = time.perf_counter()
    for system in systems:
        emu.predict(work, system, placement)
    return ONE_BY_ONE / (time.perf_counter() - start)


def main(folder: str) -> None:
    """The large sweep; prints how many points there are and the most bytes that it held."""
    works = decode_grid(MODELS["llama-3.1-8b"], BATCH, CONTEXT)
    grid = _grid(LARGE // (len(BATCH) * len(CONTEXT)))
    sweep(works, [grid], ["off-chip"], to=folder, columns=["step_s", "fits"], progress=False)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    points = len(BATCH) * len(CONTEXT) * len(grid)
    print(json.dumps({"points": points, "most_bytes": most, "process": os.getpid()}))


if __name__ == "__main__":
    main(sys.argv[1])
