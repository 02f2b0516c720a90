"""Calls spread over threads of this process, or over the workers of a Ray cluster.

Both give results in the order of what was asked, with a few calls under way at once, so that memory
is bounded by those and not by the whole. Ray redoes the calls of a worker that is lost.
"""

import collections
import concurrent.futures
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, TypeVar

from emu.design.block import Block, known_columns
from emu.design.family import Family
from emu.errors import EmuError

Executor = Literal["threads", "ray"]
Results = dict[str, Any]
Item = TypeVar("Item")

_AHEAD = 2  # calls under way for each worker: one computed, one waiting
_TRIES = 5  # of a call whose worker is lost
_ELSEWHERE = Family(batches=(), contexts=(), tiles=())  # in a block whose family is sent apart


def check_executor(executor: str) -> None:
    """Raises EmuError where it is none."""
    if executor not in ("threads", "ray"):
        raise EmuError(f"executor is 'threads' or 'ray', not {executor!r}")


def computed(
    blocks: Sequence[Block], columns: Sequence[str] | None, executor: Executor = "threads"
) -> Iterator[tuple[Block, Results]]:
    """Each block's results, of which only these columns are kept, in the blocks' order."""
    kept = known_columns(columns)
    check_executor(executor)
    if executor == "threads":
        return in_threads(lambda block: _results(block.family, block, kept), blocks)
    return _blocks_in_ray(blocks, kept)


def in_threads(call: Callable[[Item], Any], items: Iterable[Item]) -> Iterator[tuple[Item, Any]]:
    """In as many threads as this process has cores: for what does not hold Python's lock."""
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with concurrent.futures.ThreadPoolExecutor(workers or 1) as pool:
        yield from _in_order(
            items,
            submit=lambda item: pool.submit(call, item),
            result=lambda future: future.result(),
            cancel=lambda future: future.cancel(),
            ahead=_AHEAD * (workers or 1),
        )


def in_ray(
    call: Callable[..., Any],
    items: Iterable[Item],
    arguments: Callable[[Item], tuple[Any, ...]] = lambda item: (item,),
) -> Iterator[tuple[Item, Any]]:
    """On the Ray cluster that this process is connected to, else on a new one of this machine.

    `arguments` of an item are what `call` gets on the worker; a `ray.put` among them arrives as
    what was put.
    """
    ray = _ray()
    remote = ray.remote(max_retries=_TRIES, num_cpus=1)(call)

    def result(promised: Any) -> Any:
        try:
            return ray.get(promised)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None

    yield from _in_order(
        items,
        submit=lambda item: remote.remote(*arguments(item)),
        result=result,
        cancel=ray.cancel,
        ahead=_AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1))),
    )


def _blocks_in_ray(
    blocks: Sequence[Block], columns: tuple[str, ...]
) -> Iterator[tuple[Block, Results]]:
    """Blocks of one family come one after the other: it is sent once for all of them."""
    ray = _ray()
    sent: tuple[Family, Any] | None = None

    def arguments(block: Block) -> tuple[Any, ...]:
        nonlocal sent
        if sent is None or sent[0] is not block.family:
            sent = (block.family, ray.put(block.family))
        return sent[1], dataclasses.replace(block, family=_ELSEWHERE), columns

    yield from in_ray(_results, blocks, arguments)


def _results(family: Family, block: Block, columns: tuple[str, ...]) -> Results:
    results = dataclasses.replace(block, family=family).results()
    return {name: results[name] for name in columns}


def _in_order(
    items: Iterable[Item],
    *,
    submit: Callable[[Item], Any],
    result: Callable[[Any], Any],
    cancel: Callable[[Any], Any],
    ahead: int,
) -> Iterator[tuple[Item, Any]]:
    rest = iter(items)
    under_way = collections.deque((item, submit(item)) for item in itertools.islice(rest, ahead))
    try:
        while under_way:
            item, promised = under_way.popleft()
            made = result(promised)
            for more in itertools.islice(rest, 1):
                under_way.append((more, submit(more)))
            yield item, made
    finally:
        for _, promised in under_way:
            cancel(promised)


def _ray() -> Any:
    """Ray, connected."""
    try:
        import ray  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise EmuError(
            "executor='ray' needs Ray: pip install 'emu[ray]', or take 'threads'"
        ) from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)
    return ray
