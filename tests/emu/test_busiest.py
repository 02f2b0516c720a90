import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.busiest import busiest_distinct, busiest_pairs, expected_distinct
from emu.errors import EmuError

SAMPLES = 4000


def simulated(experts, chosen, tokens, groups):
    """Means over draws of the most distinct experts, and of the most pairs, on any rank."""
    random = np.random.default_rng(0)
    distinct, pairs = [], []
    for _ in range(SAMPLES):
        picks = np.argsort(random.random((tokens, experts)), axis=1)[:, :chosen]
        ranks = picks // (experts // groups)
        touched = np.unique(picks) // (experts // groups)
        distinct.append(np.bincount(touched, minlength=groups).max())
        pairs.append(np.bincount(ranks.ravel(), minlength=groups).max())
    return [(np.mean(x), np.std(x) / SAMPLES**0.5) for x in (distinct, pairs)]


@pytest.mark.parametrize(
    ("experts", "chosen", "tokens", "groups"),
    [
        (256, 8, 1, 8),
        (256, 8, 1, 32),
        (256, 8, 16, 32),
        (128, 4, 3, 4),
        (8, 2, 4, 8),
        (16, 1, 9, 2),
    ],
)
def test_the_busiest_rank_is_what_a_simulation_finds(experts, chosen, tokens, groups):
    (distinct, error), (pairs, pairs_error) = simulated(experts, chosen, tokens, groups)
    assert abs(busiest_distinct(experts, chosen, tokens, groups) - distinct) < 5 * error + 1e-9
    found = busiest_pairs(experts, chosen, tokens, groups)
    if tokens == 1:
        assert abs(found - pairs) < 5 * pairs_error
    else:  # ranks taken as independent: at most 6 % too few, and never more
        assert 0.93 * pairs < found < pairs + 5 * pairs_error


def test_by_hand():
    # 2 of 4 experts on 2 ranks: both on one rank in 2 of 6 draws, so (2 * 2 + 4 * 1) / 6.
    assert busiest_distinct(4, 2, 1, 2) == pytest.approx(8 / 6)
    # One of two experts, twice: the same one half of the time; a rank has 2 pairs then, else 1.
    assert busiest_distinct(2, 1, 2, 2) == pytest.approx(1.0)
    assert expected_distinct(2, 1, 2) == pytest.approx(1.5)


@settings(max_examples=40)
@given(
    groups=st.sampled_from([1, 2, 4, 8]),
    each=st.integers(1, 8),
    chosen=st.integers(1, 4),
    tokens=st.integers(1, 40),
)
def test_the_busiest_has_at_least_the_mean_and_at_most_everything(groups, each, chosen, tokens):
    experts = groups * each
    chosen = min(chosen, experts)
    touched = expected_distinct(experts, chosen, tokens)
    most = busiest_distinct(experts, chosen, tokens, groups)
    assert touched / groups - 1e-9 <= most <= min(touched, each) + 1e-9
    pairs = busiest_pairs(experts, chosen, tokens, groups)
    assert tokens * chosen / groups - 1e-9 <= pairs <= tokens * min(chosen, each) + 1e-9
    assert most <= pairs + 1e-9
    more = busiest_distinct(experts, chosen, tokens + 1, groups)
    assert more >= most - 1e-9


def test_experts_that_groups_do_not_divide():
    with pytest.raises(EmuError, match="8 experts over 3 groups of ranks: not divisible"):
        busiest_distinct(8, 2, 1, 3)
