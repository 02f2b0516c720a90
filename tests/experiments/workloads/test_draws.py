import numpy as np
import pytest
from scipy.stats import kstest

from experiments.workloads.draws import normal, uniform

COUNT = 200_000
HERE, THERE = np.arange(COUNT) // 500, np.arange(COUNT) % 500


def test_numbers_are_uniform_and_normal() -> None:
    # By chance a p below 0.001 comes once in a thousand; the numbers are fixed.
    assert kstest(uniform(0, "tool", HERE, THERE), "uniform").pvalue > 1e-3
    assert kstest(normal(1, "llm", HERE, THERE), "norm").pvalue > 1e-3


@pytest.mark.parametrize(
    "other",
    [
        uniform(1, "tool", HERE, THERE),  # another seed
        uniform(0, "llm", HERE, THERE),  # stream
        uniform(0, "tool", HERE + 1, THERE),  # session
        uniform(0, "tool", HERE, THERE + 1),  # step
        uniform(0, "tool", THERE, HERE),
        uniform(0, "tool", HERE),
    ],
)
def test_neighbours_do_not_know_each_other(other: np.ndarray) -> None:
    one = uniform(0, "tool", HERE, THERE)
    assert len(np.unique(one)) == COUNT
    assert abs(np.corrcoef(one, other)[0, 1]) < 4 / COUNT**0.5


def test_a_number_stays_at_its_address() -> None:
    few, many = (uniform(3, "output", np.arange(n), np.zeros(n, int)) for n in (10, 1000))
    np.testing.assert_array_equal(few, many[:10])
