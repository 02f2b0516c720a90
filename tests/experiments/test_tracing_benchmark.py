"""The benchmark of predictions: it measures in processes of their own. About 4 seconds."""

import pytest

from experiments.benchmarks import tracing
from experiments.errors import ExperimentError


def test_a_row_tells_how_many_times_as_fast_as_promised():
    row = tracing._row("name", [1.0, 4.0, 0.5], "s", 2.0, 3)
    assert (row["value"], row["value_min"], row["value_max"], row["ratio"]) == (1.0, 0.5, 4.0, 2.0)
    assert row["against"] == "limit 2 s"


@pytest.mark.newest
def test_the_largest_model_is_traced_in_a_fresh_process_of_less_than_a_gigabyte():
    run = tracing._in_a_fresh_process("llama-3.1-405b")
    assert 50e6 < run["most_bytes"] < 1e9  # Python and JAX alone hold more than the former
    warm = [run[f"{kind}_{stack}"] for kind in ("warm", "new_system") for stack in tracing.STACKS]
    assert all(0 < seconds < run["seconds"] for seconds in warm)


def test_a_process_that_fails_is_told_in_one_line():
    with pytest.raises(ExperimentError, match=r"^bench: .*tracing llama-9 failed: .*'llama-9'"):
        tracing._in_a_fresh_process("llama-9")
