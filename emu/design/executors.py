"""Blocks computed by threads of this process, or by the workers of a Ray cluster.

Both give the blocks' results in the blocks' order with a few under way at once, so that memory is
bounded by those and not by the sweep. Ray redoes the tasks of a worker that is lost.
"""

import collections
import concurrent.futures
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

from emu.design.block import Block, known_columns
from emu.errors import EmuError

Results = dict[str, Any]

_AHEAD = 2  # blocks under way for each worker: one computed, one waiting
_TRIES = 5  # of a block whose worker is lost


def results_of(block: Block, columns: Sequence[str] | None) -> Results:
    """A block's results, of which only these columns are kept."""
    results = block.results()
    return {name: results[name] for name in known_columns(columns)}


def in_threads(
    blocks: Sequence[Block], columns: Sequence[str] | None
) -> Iterator[tuple[Block, Results]]:
    """In as many threads as this process has cores; what they run does not hold Python's lock."""
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = workers or 1
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        rest = iter(blocks)
        under_way = collections.deque(
            (block, pool.submit(results_of, block, columns))
            for block in itertools.islice(rest, _AHEAD * workers)
        )
        try:
            while under_way:
                block, future = under_way.popleft()
                results = future.result()
                for more in itertools.islice(rest, 1):
                    under_way.append((more, pool.submit(results_of, more, columns)))
                yield block, results
        finally:
            for _, future in under_way:
                future.cancel()


def in_ray(
    blocks: Sequence[Block], columns: Sequence[str] | None
) -> Iterator[tuple[Block, Results]]:
    """On the Ray cluster that this process is connected to, else on a new one of this machine."""
    try:
        import ray  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise EmuError(
            "design: executor='ray' needs Ray: pip install 'emu[ray]', or take 'threads'"
        ) from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)
    remote = ray.remote(max_retries=_TRIES, num_cpus=1)(results_of)
    workers = max(1, int(ray.cluster_resources().get("CPU", 1)))
    rest = iter(blocks)
    under_way: collections.deque[tuple[Block, Any]] = collections.deque()

    def submit(count: int) -> None:
        for block in itertools.islice(rest, count):
            under_way.append((block, remote.remote(block, columns)))

    submit(_AHEAD * workers)
    try:
        while under_way:
            block, promised = under_way.popleft()
            try:
                results = ray.get(promised)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            submit(1)
            yield block, results
    finally:
        for _, promised in under_way:
            ray.cancel(promised)
