import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import emu
from experiments.errors import ExperimentError
from experiments.serving.caches import Caches
from experiments.serving.policy import Policy
from experiments.serving.simulation import PLACES, simulate
from experiments.session_time import Service
from experiments.step_times import Grid, Room, StepTimes
from experiments.workloads.traffic import Traffic

ROOM = Room(
    fixed_bytes=50, sequence_bytes=0, token_bytes=1, capacity_bytes=150, all_token_bytes=10
)  # a hundred tokens


def test_the_longest_unused_cache_goes_first_to_the_hosts_and_then_away() -> None:
    caches = Caches(ROOM, host_bytes=800)  # eighty tokens
    for session in (1, 2):
        caches.reserve(session, 40)
        caches.leave(session, 40)
    caches.reserve(3, 40)  # 20 were free
    assert [caches.place(s) for s in (1, 2, 3)] == ["host", "near", "gone"]
    caches.leave(3, 40)
    caches.reserve(4, 80)  # both others go; the hosts hold two
    assert [caches.place(s) for s in (1, 2, 3)] == ["gone", "host", "host"]
    assert (caches.evicted, caches.dropped) == (3, 1)
    assert caches.fits(20)
    assert not caches.fits(21)


def test_a_cache_that_is_used_again_is_the_last_to_go() -> None:
    caches = Caches(ROOM, host_bytes=10_000)
    for session in (1, 2):
        caches.reserve(session, 30)
        caches.leave(session, 30)
    caches.reserve(1, 35)
    caches.leave(1, 35)
    caches.reserve(3, 60)
    assert [caches.place(s) for s in (1, 2)] == ["near", "host"]


def test_without_hosts_it_is_dropped() -> None:
    caches = Caches(ROOM, host_bytes=0)
    caches.reserve(1, 60)
    caches.leave(1, 60)
    caches.reserve(2, 60)
    assert caches.place(1) == "gone"
    assert caches.dropped == 1


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 90)), max_size=60))
def test_the_room_is_never_exceeded(asked: list[tuple[int, int]]) -> None:
    caches = Caches(ROOM, host_bytes=1500)
    for session, tokens in asked:
        assert caches.fits(tokens)  # nothing is in use between two calls
        caches.reserve(session, tokens)
        assert caches._free >= 0
        caches.leave(session, tokens)
        idle = sum(caches._idle.values())
        assert idle + caches._free == pytest.approx(100)
        assert caches._idle_bytes == pytest.approx(idle)
        assert 10 * sum(caches._host.values()) + caches._host_free == pytest.approx(1500)


PROMPTS = Grid(rows=(0.0, 1e6), columns=(0.0, 1e6), seconds=((0, 0), (1e3, 1e3)))


def instance(room: Room) -> StepTimes:
    """A step takes 1 ms, a token of a prompt 1 ms, a cache comes back at 1,000 bytes/s."""
    return StepTimes(
        decode=Grid(rows=(1.0, 2.0), columns=(0.0, 1e6), seconds=((1e-3, 1e-3), (1e-3, 1e-3))),
        prefill=PROMPTS,
        beside=PROMPTS,
        chunk=10**6,
        stages=1,
        chips=1,
        room=room,
        power_w=1,
        host_bytes_per_s=1000,
        low=1,
        high=1,
        system="made up",
        moved=(),
        checked=(),
    )


def two_sessions() -> Traffic:
    """Each of two calls, the second a minute after the first; they do not overlap."""
    return Traffic(
        start_s=np.array([0.0, 30.0]),
        session=np.array([0, 0, 1, 1]),
        request=np.array([0, 1, 2, 3]),
        delay_s=np.array([0.0, 60.0, 0.0, 60.0]),
        prefix_tokens=np.array([0, 51, 0, 51]),
        append_tokens=np.array([50, 5, 50, 5]),
        output_tokens=np.array([1, 1, 1, 1]),
        tool_s=np.zeros(4),
        observed_llm_s=np.full(4, np.nan),
    )


@pytest.mark.parametrize(
    ("capacity", "host_bytes", "place", "prefix_s"),
    [
        (1000, 0, "near", 0.0),  # both stay
        (150, 10_000, "host", 0.51),  # 51 tokens of 10 bytes, at 1,000 bytes/s
        (150, 0, "gone", 0.051),  # prefilled again
    ],
)
def test_a_prefix_comes_from_where_it_is(
    capacity: float, host_bytes: float, place: str, prefix_s: float
) -> None:
    room = dataclasses.replace(ROOM, capacity_bytes=capacity)
    service, policy = Service(network_s=0.0), Policy(host_bytes=host_bytes)
    log = simulate(two_sessions(), instance(room), service, policy)
    assert [PLACES[int(p)] for p in log.place] == ["new", place, "new", place]
    ttft = log.first_s - log.arrival_s
    np.testing.assert_allclose(ttft, [0.05, prefix_s + 0.005, 0.05, prefix_s + 0.005])


def test_calls_wait_for_room() -> None:
    # Contexts of 60 tokens in a room of 100, answered in 40 steps: one after the other.
    traffic = Traffic(
        start_s=np.zeros(3),
        session=np.arange(3),
        request=np.arange(3),
        delay_s=np.zeros(3),
        prefix_tokens=np.zeros(3, np.int64),
        append_tokens=np.full(3, 19),
        output_tokens=np.full(3, 41),
        tool_s=np.zeros(3),
        observed_llm_s=np.full(3, np.nan),
    )
    service = Service(network_s=0.0)
    log = simulate(traffic, instance(ROOM), service, Policy())
    np.testing.assert_allclose(log.done_s, [0.059, 0.118, 0.177], rtol=1e-9)
    larger = simulate(
        traffic, instance(dataclasses.replace(ROOM, capacity_bytes=500)), service, Policy()
    )
    assert larger.done_s.max() < 0.15


def test_a_context_without_room_says_how_many_chips_would_do() -> None:
    room = dataclasses.replace(ROOM, capacity_bytes=90)
    with pytest.raises(emu.CapacityError, match=r"57 tokens.*has 40 .*about 2 chips would do"):
        simulate(two_sessions(), instance(room), Service(), Policy())


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"most_together": 0}, "at least 1"), ({"host_bytes": -1.0}, "must not be negative")],
)
def test_a_policy_is_checked(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        Policy(**fields)  # type: ignore[arg-type]
