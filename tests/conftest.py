"""How tests are compiled and ordered, and what is said at their end.

Compiling is most of what they take, and most of that is spent on making fast what runs once. So
programs are compiled as quickly as XLA can, here and in the processes started from here, but where
the fixture `compiled_in_full` asks for what users get: in tests with a real model.
"""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # read when JAX is imported

import jax
import pytest
from hypothesis import HealthCheck, settings

NEEDS = "needs "  # how such a skip's reason begins
TESTS = Path(__file__).parent
# Files that take long, about the longest first: started last, one keeps a worker while others idle.
LONGEST = (
    "experiments/test_run.py",
    "models/test_zoo_golden.py",
    "experiments/test_several_devices.py",
    "experiments/test_predict.py",
    "experiments/test_benchmarks.py",
    "experiments/test_validate.py",
    "emu/test_sharding.py",
    "emu/test_trace_equinox_keras.py",
    "emu/test_design_sweep.py",
    "models/test_formats.py",
    "experiments/test_run_in_a_bucket.py",
    "models/test_golden.py",
    "experiments/serving/test_published.py",
)

# How long an example takes says how busy the machine is.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Orders the files; `--no-loadscope-reorder` lets workers take them so."""
    rank = {TESTS / name: place for place, name in enumerate(LONGEST)}
    assert all(path.exists() for path in rank), "LONGEST names a file that is not there"
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


@pytest.fixture(scope="module")
def compiled_in_full() -> Iterator[None]:
    """From here to the module's end what is compiled, and started, is as users have it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS")
        jax.config.update("jax_disable_most_optimizations", False)
        jax.clear_caches()  # what was compiled quickly would be used on
        yield
    jax.config.update("jax_disable_most_optimizations", True)


def pytest_sessionfinish() -> None:
    """Collects once. pytest does it five times more: seconds each, with all that JAX keeps."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each test that this machine cannot run, with what it lacks."""
    lacking = [
        (report.nodeid, reason)
        for report in terminalreporter.stats.get("skipped", [])
        if NEEDS in (reason := _reason(report))
    ]
    if lacking:
        terminalreporter.section("skipped for want of hardware or tools")
        for nodeid, reason in lacking:
            terminalreporter.line(f"{nodeid}: {reason}")
        terminalreporter.line(f"{len(lacking)} skipped for want of hardware or tools")


def _reason(report: pytest.TestReport) -> str:
    where = report.longrepr
    text = str(where[2]) if isinstance(where, tuple) else str(where)
    return text.removeprefix("Skipped: ")
