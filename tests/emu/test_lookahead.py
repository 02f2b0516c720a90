import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu import lookahead
from emu.lookahead import NOTHING, Run

KERNELS = st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 6)), min_size=1, max_size=8)


def played(kernels, lead):
    """The recursion itself."""
    stalls = 0
    for slack, cap in kernels:
        stalls += max(0, -slack - lead)
        lead = min(cap, max(0, lead + slack))
    return lead, stalls


def run_of(kernels):
    slack, cap = np.array(kernels, np.float64).T
    return lookahead.one(slack, cap)


def folded(kernels):
    padded = Run(*(np.full(8, nothing) for nothing in NOTHING))
    for field, numbers in zip(padded, run_of(kernels), strict=True):
        field[: len(kernels)] = numbers
    return lookahead.folded(padded)


def after(run, lead):
    return min(run.high, max(run.low, lead + run.gain)), run.least + max(0, run.edge - lead)


@given(KERNELS, st.integers(0, 9))
def test_a_run_folded_pairwise_is_the_recursion(kernels, lead):
    assert after(folded(kernels), lead) == played(kernels, lead)


@given(KERNELS, st.integers(0, 9))
def test_folded_one_by_one_it_is_the_same(kernels, lead):
    assert after(lookahead.folded_one_by_one(run_of(kernels)), lead) == played(kernels, lead)


@given(KERNELS, st.integers(1, 7), st.integers(0, 9))
def test_a_repeated_run_is_the_recursion_repeated(kernels, times, lead):
    repeated = lookahead.repeated(folded(kernels), times)
    assert after(repeated, lead) == played(kernels * times, lead)


@given(KERNELS)
def test_a_cycle_stalls_as_it_does_once_its_lead_has_settled(kernels):
    lead = 0
    for _ in range(60):  # the lead moves by at least 1 a repeat, and never above 6
        lead, stalls = played(kernels, lead)
    assert lookahead.stalls_of_cycle(folded(kernels)) == stalls


def test_rounded_corners_never_stall_less():
    run = folded([(-3, 2), (2, 4), (-1, 1)])
    soft = lookahead.stalls_of_cycle(run, rounding=np.float64(0.5))
    assert soft > lookahead.stalls_of_cycle(run) == pytest.approx(2.0)
