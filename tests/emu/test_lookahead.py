import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu import lookahead
from emu.lookahead import NOTHING, Run
from emu.windows import Run as Run_

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


@given(KERNELS, KERNELS, st.integers(0, 9))
def test_one_by_one_it_is_the_same(kernels, more, lead):
    steps = iter([(0.0, 9.0, slack, cap) for slack, cap in more])
    run = lookahead.followed_by(folded(kernels), steps)
    assert next(steps, None) is None
    assert after(run, lead) == played([*kernels, *more], lead)


# Of a kernel: launch, arithmetic beyond what the port takes, whether it reads, room at both ends.
ROWS = st.tuples(
    st.integers(0, 5), st.integers(-5, 5), st.booleans(), st.integers(0, 6), st.integers(0, 6)
)


@given(st.lists(ROWS, min_size=1, max_size=9), st.integers(0, 8), st.integers(0, 9))
def test_few_moves_are_the_recursion_of_many_kernels(rows, cut, lead):
    rows = [(b, s if reads else abs(s), reads, c0, c1) for b, s, reads, c0, c1 in rows]
    cut = min(cut, len(rows) - 1)
    runs = [Run_(start=0, stop=cut, repeats=3)] if cut else []
    runs.append(Run_(start=cut, stop=len(rows), repeats=1))
    moves = lookahead.moves_of(
        runs, np.array([row[3:] for row in rows], np.float64), np.array([row[2] for row in rows])
    )
    before, slack = np.array([row[:2] for row in rows], np.float64).T
    run = Run(*NOTHING)
    for _ in range(2):  # the same again, as a step follows a step
        steps = moves.steps(before, slack, moves.ahead.tolist())
        for count, repeats in moves.runs:
            part = list(itertools.islice(steps, count))
            for _ in range(repeats):
                run = lookahead.followed_by(run, iter(part))
        assert next(steps, None) is None
    each = [[(b, c0), (s, c1)] for b, s, _, c0, c1 in rows]
    kernels = [k for row in each[:cut] * 3 + each[cut:] for k in row]
    assert after(run, lead) == played(kernels * 2, lead)


def test_kernels_that_read_nothing_are_one_move_with_the_next_that_reads():
    rooms = np.full((5, 2), 7.0)
    runs = [Run_(start=0, stop=4, repeats=2), Run_(start=4, stop=5, repeats=1)]
    moves = lookahead.moves_of(runs, rooms, np.array([False, False, True, False, False]))
    assert moves.first.tolist() == [0, 3, 4]
    assert moves.last.tolist() == [2, 3, 4]
    assert moves.runs == ((2, 2), (1, 1))
    before, slack = np.array([1.0, 1.0, 1.0, 0.0, 0.0]), np.array([10.0, 20.0, -5.0, 2.0, 3.0])
    first, *_ = moves.steps(before, slack, moves.ahead.tolist())
    assert first == (33.0, 7.0, -5.0, 7.0)


def test_room_that_grows_ends_a_move():
    rooms = np.array([[1.0, 1.0], [2.0, 2.0], [2.0, 3.0], [3.0, 3.0]])
    moves = lookahead.moves_of([Run_(start=0, stop=4, repeats=1)], rooms, np.zeros(4, bool))
    assert moves.last.tolist() == [0, 2, 3]


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
