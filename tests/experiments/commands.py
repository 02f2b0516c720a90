"""The project's commands, each in a process of its own that need not import JAX again.

A server that has imported what most commands need, and has used none of it, forks one process for
each. That is four of the five seconds that a refused command takes. What a command does at its very
start and end (warnings of imports, signals, several hosts) is tested by `python -m` itself.
"""

import atexit
import importlib
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.waiting import HANGS_S

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.experiments.imported"])


def run_command(
    module: str, *arguments: str, environment: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """As `python -m module arguments` in this folder."""
    with Started(module, *arguments, environment=environment) as started:
        return started.ended()


class Started:
    """A command under way; it is killed at the end of the context if it has not ended."""

    def __init__(
        self, module: str, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self._command = [module, *arguments]
        self._folder = tempfile.TemporaryDirectory()
        self._said = [Path(self._folder.name) / name for name in ("out", "errors")]
        given = dict(os.environ if environment is None else environment)
        self._process = _FORKS.Process(target=_main, args=(module, arguments, given, self._said))
        self._process.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
        self._folder.cleanup()

    def poll(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.exitcode

    def kill(self) -> None:
        """As SIGKILL."""
        self._process.kill()

    def ended(self) -> "subprocess.CompletedProcess[str]":
        """Waits for its end; a command that hangs is killed."""
        self._process.join(HANGS_S)
        if self._process.exitcode is None:
            self.kill()
            self._process.join()
        assert self._process.exitcode is not None
        out, errors = (path.read_text() if path.exists() else "" for path in self._said)
        return subprocess.CompletedProcess(self._command, self._process.exitcode, out, errors)


def _main(
    module: str, arguments: tuple[str, ...], environment: dict[str, str], said: list[Path]
) -> None:
    for number, path in enumerate(said, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    # JAX read these when it was imported.
    config = importlib.import_module("jax").config
    config.update("jax_platforms", environment.get("JAX_PLATFORMS"))
    quick = "JAX_DISABLE_MOST_OPTIMIZATIONS" in environment
    config.update("jax_disable_most_optimizations", quick)
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        # `python -m` does, a forked process does not: hosts wait for each other in one of these.
        atexit._run_exitfuncs()
