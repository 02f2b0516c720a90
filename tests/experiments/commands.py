"""The project's commands, each in a process of its own that need not import JAX again.

A server that has imported what most commands need, and has used none of it, forks one process for
each. That is four of the five seconds that a refused command takes. What a command does at its very
start and end (warnings of imports, signals, several hosts) is tested by `python -m` itself.
"""

import importlib
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.waiting import HANGS_S

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.experiments.imported"])


def run_command(
    module: str, *arguments: str, environment: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """As `python -m module arguments` in this folder."""
    with tempfile.TemporaryDirectory() as folder:
        said = [Path(folder) / name for name in ("out", "errors")]
        given = dict(os.environ if environment is None else environment)
        process = _FORKS.Process(target=_main, args=(module, arguments, given, said))
        process.start()
        process.join(HANGS_S)
        if process.exitcode is None:
            process.kill()
            process.join()
        out, errors = (path.read_text() if path.exists() else "" for path in said)
        assert process.exitcode is not None
        return subprocess.CompletedProcess([module, *arguments], process.exitcode, out, errors)


def _main(
    module: str, arguments: tuple[str, ...], environment: dict[str, str], said: list[Path]
) -> None:
    for number, path in enumerate(said, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    # JAX read these when it was imported.
    importlib.import_module("jax").config.update("jax_platforms", environment.get("JAX_PLATFORMS"))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
