"""An instance that has been serving for long, held against Little's law."""

import dataclasses

import numpy as np
import pytest
from test_capacity import TIMES, WINDOW

from experiments.serving.caches import Caches
from experiments.serving.policy import Policy
from experiments.serving.simulation import PLACES, Log, simulate
from experiments.serving.steady import Steady, steady
from experiments.session_time import Service
from experiments.step_times import Room
from experiments.workloads.sampling import sample
from experiments.workloads.traffic import Floats, Traffic
from experiments.workloads.workload import workload

SERVICE = Service(network_s=0.0)
SESSIONS = 300


@pytest.fixture(scope="module")
def alone() -> tuple[Traffic, Log]:
    traffic = sample(workload("agentic"), sessions=SESSIONS, per_s=1e-5, seed=0).within(WINDOW)
    return traffic, simulate(traffic, TIMES, SERVICE, Policy())


def begun(alone: tuple[Traffic, Log], per_s: float) -> Steady:
    drawn = sample(workload("agentic"), sessions=SESSIONS, per_s=per_s, seed=0).within(WINDOW)
    return steady(drawn, alone[1], per_s=per_s, network_s=0.0, seed=0)


def durations(traffic: Traffic, log: Log) -> Floats:
    first = np.flatnonzero(np.append(True, traffic.session[1:] != traffic.session[:-1]))
    last = np.append(first[1:], len(traffic)) - 1
    return np.asarray(log.done_s[last] - log.arrival_s[first] + traffic.delay_s[first])


def test_as_many_sessions_are_under_way_as_littles_law_says(alone: tuple[Traffic, Log]) -> None:
    per_s = 0.02  # sessions start for four hours; some last for a day
    expected = per_s * durations(*alone).mean()
    found = begun(alone, per_s)
    under_way = [session for session, _ in found.held if session >= 0]
    # Those that come again within the four hours: nearly all, but for who pauses for longer.
    assert 0.8 * expected < len(under_way) < 1.05 * expected
    assert len(set(under_way)) == len(under_way)
    # Calls come as often in the first quarter as in the last, and as often as whole sessions have.
    log = simulate(found.traffic, TIMES, SERVICE, Policy(), found.held)
    end = found.traffic.start_s.max()
    quarters = np.histogram(log.arrival_s, bins=4, range=(0, end))[0]
    usual = per_s * len(alone[0]) / SESSIONS * end / 4
    np.testing.assert_allclose(quarters, usual, rtol=0.15)
    assert quarters.sum() == pytest.approx(4 * usual, rel=0.06)


def test_without_room_for_them_caches_are_where_they_were_left(alone: tuple[Traffic, Log]) -> None:
    found = begun(alone, 0.02)
    held = dict(found.held)
    tight = Room(
        fixed_bytes=0,
        sequence_bytes=0,
        token_bytes=1,
        capacity_bytes=sum(held.values()) / 4,
        all_token_bytes=1,
    )
    caches = Caches(tight, host_bytes=sum(held.values()) / 4)
    caches.fill(found.held)
    places = [caches.place(session) for session, _ in found.held]
    gone, host, near = (places.count(place) for place in ("gone", "host", "near"))
    assert places == ["gone"] * gone + ["host"] * host + ["near"] * near  # by last use
    assert min(gone, host, near) > 10
    assert caches.evicted == caches.dropped == 0
    times = dataclasses.replace(TIMES, room=tight, host_bytes_per_s=1e12)
    log = simulate(
        found.traffic, times, SERVICE, Policy(host_bytes=tight.capacity_bytes), held=found.held
    )
    starts = np.append(True, found.traffic.session[1:] != found.traffic.session[:-1])
    counted = np.bincount(log.place[starts].astype(int), minlength=len(PLACES))
    assert (counted[1:] > 10).all()  # near, at the hosts, gone; none of an agent's is new


def test_a_request_that_is_cut_is_not_whole(alone: tuple[Traffic, Log]) -> None:
    found = begun(alone, 0.02)
    steps = np.bincount(found.traffic.request)
    usual = np.bincount(alone[0].request)
    whole = np.bincount(found.traffic.request, found.whole) == steps
    assert 0.5 < whole.mean() < 1
    # Whole ones are as long as requests are; what is cut is cut from the long ones.
    assert steps[whole].mean() == pytest.approx(usual.mean(), rel=0.2)


def test_at_a_rate_of_nearly_none_it_is_the_traffic_itself(alone: tuple[Traffic, Log]) -> None:
    found = begun(alone, 1e-9)
    assert found.held == ()
    assert len(found.traffic.start_s) == SESSIONS
    # Sessions end long before the next one starts; of the last, what follows its start is cut.
    kept = len(alone[0]) - int((alone[0].session == SESSIONS - 1).sum()) + 1
    assert len(found.traffic) == kept
    for name in ("session", "request", "delay_s", "tool_s", "append_tokens", "output_tokens"):
        given, drawn = getattr(found.traffic, name), getattr(alone[0], name)[:kept]
        np.testing.assert_array_equal(given, drawn, err_msg=name)
    assert found.whole[:-1].all()
