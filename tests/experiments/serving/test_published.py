"""The simulation against what was measured under load, where it can be trusted (tiers 1 and 2)."""

import pytest

from experiments.cases import read_cases
from experiments.serving.published import compared
from experiments.step_times import Axes

# Clients on an H200 with gpt-oss-120b, and on eight TPU v6e with Llama-3.1-70B.
SHOWN = {"D061", "D063", "D065", "D067", "D100", "D101"}
# Where those clients are; a request's context grows over a straight line, its prompt is one chunk.
AXES = Axes(
    sequences=(1, 4, 16, 64, 128, 256),
    contexts=(0.1, 0.5, 1.0),
    tokens=(1, 64, 512, 1024, 2048),
    prefixes=(0.0, 0.98),
)


@pytest.mark.slow
def test_gaps_between_tokens_under_load_are_within_a_quarter_of_the_published() -> None:
    cases = read_cases("experiments/measured/decode_cases.csv")
    found = {one.case.id: one.error for one in compared((c for c in cases if c.id in SHOWN), AXES)}
    assert set(found) == SHOWN
    assert max(map(abs, found.values())) < 0.25, found
    assert sum(map(abs, found.values())) / len(found) < 0.12, found
