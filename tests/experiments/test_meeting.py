"""Hosts that meet, as threads over the loopback."""

import socket
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from experiments.errors import ExperimentError
from experiments.meeting import meet
from tests.experiments.test_several_devices import free_port
from tests.waiting import HANGS_S

Asked = dict[int, tuple[int, str]]  # by host: of how many, and what


def met(asked: Asked, patience_s: dict[int, float] | None = None) -> dict[int, str]:
    """What each host was told; empty where it met the others."""
    patience = patience_s or {}
    coordinator = f"localhost:{free_port()}"

    def one(host: int) -> str:
        hosts, what = asked[host]
        try:
            meet(hosts, host, coordinator, what, patience_s=patience.get(host, HANGS_S))
        except ExperimentError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(len(asked)) as pool:
        futures: dict[int, Future[str]] = {host: pool.submit(one, host) for host in asked}
        return {host: future.result(HANGS_S) for host, future in futures.items()}


def test_all_that_are_asked_for_the_same_meet() -> None:
    assert met({0: (3, "x"), 1: (3, "x"), 2: (3, "x")}) == {0: "", 1: "", 2: ""}


@pytest.mark.parametrize(
    ("second", "why"),
    [
        ((2, "y"), "host 1 was given another config than host 0: give all the same"),
        ((3, "x"), "host 1 was told of 3 hosts, host 0 of 2"),
    ],
)
def test_hosts_that_were_asked_for_something_else_are_told(
    second: tuple[int, str], why: str
) -> None:
    for told in met({0: (2, "x"), 1: second}).values():
        assert told == f"the hosts did not meet: {why}"


def test_who_is_missing_is_named() -> None:
    told = met({0: (3, "x"), 1: (3, "x")}, {0: 6.0})
    assert told.keys() == {0, 1}
    for why in told.values():
        assert "of 3 hosts, 2 did not come to localhost:" in why
    alone = met({1: (2, "x")}, {1: 0.2})[1]
    assert "host 0 was not found at localhost:" in alone
    assert "start it too" in alone


def test_a_stranger_at_the_port_is_not_a_host() -> None:
    port = free_port()
    first = threading.Thread(target=meet, args=(2, 0, f"localhost:{port}", "x"))
    first.start()
    for said in (b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b'{"hosts": 2}\n'):
        while True:
            try:
                stranger = socket.create_connection(("localhost", port), timeout=HANGS_S)
            except ConnectionRefusedError:
                assert first.is_alive()
                continue  # not there yet
            break
        with stranger:
            stranger.sendall(said)
    meet(2, 1, f"localhost:{port}", "x", patience_s=HANGS_S)
    first.join(HANGS_S)
    assert not first.is_alive()


def test_a_port_that_is_taken_and_addresses_that_are_none() -> None:
    match = r"cannot listen at port \d+: Address already in use"
    with socket.create_server(("", 0)) as taken, pytest.raises(ExperimentError, match=match):
        meet(2, 0, f"localhost:{taken.getsockname()[1]}", "x")
    for none in ("10.0.0.2", "10.0.0.2:", ":80", "host:port", "host:70000"):
        with pytest.raises(ExperimentError, match="give the address and a free port of host 0"):
            meet(2, 0, none, "x")
