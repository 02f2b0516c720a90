"""One run on several hosts: the same command on each, `jax.distributed` between them.

    python -m experiments.run … --hosts=2 --host=0 --coordinator=10.0.0.2:8476   # and --host=1

All hosts compute; host 0 alone opens the workdir, writes and prints. What decides the way of the
program (the finished rows, what was measured of the machine) is host 0's, given to all, since hosts
that go different ways wait for each other for ever.
"""

import atexit
import contextlib
import os
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from typing import Self, TypeVar

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils

from experiments import meeting
from experiments.errors import ExperimentError
from experiments.results import Results, Row

_HOSTS = flags.DEFINE_integer("hosts", 1, "how many hosts run this command together")
_HOST = flags.DEFINE_integer("host", 0, "which of them this is, from 0")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of host 0, where it listens")

HEARTBEAT_S = 30  # a host that is silent for so long is lost

T = TypeVar("T")

_failed: list[BaseException] = []  # what ended this host before its work was done


def join(asked: str, *, several: bool) -> None:
    """Meet the other hosts, if there are any; before JAX is used for anything else.

    Args:
      asked: what this host is to run; the same text on all hosts.
      several: whether that can be run by several hosts.

    Raises ExperimentError for flags that do not go together, or hosts that do not come.
    """
    if _HOSTS.value == 1 and _COORDINATOR.value is None and _HOST.value == 0:
        return
    if not _COORDINATOR.value or not 0 <= _HOST.value < _HOSTS.value:
        raise ExperimentError(
            f"--hosts={_HOSTS.value} --host={_HOST.value} --coordinator={_COORDINATOR.value}: give "
            "all three, the host below the hosts, such as --hosts=2 --host=1 "
            "--coordinator=10.0.0.2:8476"
        )
    if not several:
        raise ExperimentError("this experiment runs on one host: leave --hosts out")
    meeting.meet(_HOSTS.value, _HOST.value, _COORDINATOR.value, asked)
    # It takes SIGTERM for itself, so that programs can save what they hold at a step of all.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            _COORDINATOR.value,
            _HOSTS.value,
            _HOST.value,
            initialization_timeout=60,
            heartbeat_timeout_seconds=HEARTBEAT_S,
        )
        atexit.register(_leave_at_once)  # before JAX's own, which meets the others once more
    except (RuntimeError, ValueError) as error:
        raise ExperimentError(
            f"the {_HOSTS.value} hosts did not meet at {_COORDINATOR.value}: "
            + " ".join(str(error).split())[:200]
        ) from error


def is_first() -> bool:
    """Whether this host writes and prints."""
    return jax.process_index() == 0


def from_first(make: Callable[[], T]) -> T:
    """What host 0 makes, on every host; what it raises, too, where that is an ExperimentError."""
    if jax.process_count() == 1:
        return make()
    made: T | ExperimentError | None = None
    if is_first():
        try:
            made = make()
        except ExperimentError as error:
            made = error
    data = np.frombuffer(pickle.dumps(made), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(data.size)))
    buffer = np.zeros(size, np.uint8)
    buffer[: data.size if is_first() else 0] = data if is_first() else 0
    given = pickle.loads(np.asarray(multihost_utils.broadcast_one_to_all(buffer)).tobytes())
    if isinstance(given, ExperimentError):
        raise given
    return given  # type: ignore[no-any-return]


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Around what hosts compute together: tells in a line that one of them is gone."""
    try:
        yield
    except BaseException as error:
        _failed.append(error)
        if not isinstance(error, jax.errors.JaxRuntimeError | ValueError):
            raise
        lost = isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error)
        if jax.process_count() == 1 or not lost:
            raise
        raise ExperimentError(
            f"another of the {jax.process_count()} hosts is gone, or cannot be reached; what was "
            "finished is kept, and the same command on all hosts goes on from there "
            f"({' '.join(str(error).split())[:120]})"
        ) from error


def _leave_at_once() -> None:
    """End without waiting for hosts that are gone, or that wait for this one."""
    if _failed:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


class SharedResults:
    """Host 0's results, seen by all hosts and written by it; use it as a context manager."""

    def __init__(self, of_first: Results) -> None:
        self._of_first = of_first
        self._rows: dict[str, Row] = {}

    def __enter__(self) -> Self:
        def opened() -> tuple[Row, ...]:
            return self._of_first.__enter__().rows

        self._rows = {row["key"]: row for row in from_first(opened)}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        if is_first():
            self._of_first.__exit__(kind, error, trace)

    @property
    def path(self) -> str:
        """Where the rows are."""
        return str(self._of_first.path)

    @property
    def rows(self) -> tuple[Row, ...]:
        """The finished rows, in the order in which they were finished."""
        return tuple(self._rows.values())

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __getitem__(self, key: str) -> Row:
        return self._rows[key]

    def append(self, row: Row) -> None:
        """Finish one measurement; host 0's is the one that is kept."""
        if is_first():
            self._of_first.append(row)
        self._rows[row["key"]] = row

    def put(self, name: str, data: bytes) -> str:
        """Write a file beside the rows."""
        return str(self._of_first.put(name, data)) if is_first() else ""


def say(text: str) -> None:
    """Print, on host 0."""
    if is_first():
        print(text)
        sys.stdout.flush()
