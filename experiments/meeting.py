"""Hosts meet before JAX does, so that one that does not come is a line of text.

`jax.distributed.initialize` waits for the others in native code, where no SIGTERM reaches Python,
and ends the process with a stack trace where they do not come. So host 0 listens at the
coordinator's port first, until each of the others has said which it is and what it was asked to
run; then all are told to begin, and the port is free for JAX.
"""

import contextlib
import hashlib
import json
import socket
import time
from collections.abc import Iterable
from typing import Any

from experiments.errors import ExperimentError

PATIENCE_S = 120.0
_PAUSE_S = 0.5
_LONGEST = 4096  # bytes of a message
_ANSWER_S = 5.0  # within which a host that is there says what it has to say


def meet(
    hosts: int, host: int, coordinator: str, asked: str, *, patience_s: float = PATIENCE_S
) -> None:
    """Returns on each host when all are there.

    Args:
      hosts: how many there are.
      host: which of them this is, from 0.
      coordinator: HOST:PORT of host 0.
      asked: what this host is to run; the same text on all.
      patience_s: how long to wait.

    Raises ExperimentError for an address that is none, for hosts that do not come, or that were
    asked for something else.
    """
    name, _, port = coordinator.rpartition(":")
    if not name or not port.isdigit() or not 0 < int(port) < 65536:
        raise ExperimentError(
            f"--coordinator={coordinator}: give the address and a free port of host 0, such as "
            "10.0.0.2:8476"
        )
    end = time.monotonic() + patience_s
    said = {"host": host, "hosts": hosts, "asked": hashlib.sha256(asked.encode()).hexdigest()}
    if host == 0:
        _gather(said, coordinator, int(port), end)
    else:
        _report(said, (name.strip("[]"), int(port)), coordinator, end, patience_s)


def _gather(said: dict[str, Any], coordinator: str, port: int, end: float) -> None:
    hosts = said["hosts"]
    come: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as opened:
        try:
            listening = opened.enter_context(_listen(port))
        except OSError as error:
            raise ExperimentError(
                f"--coordinator={coordinator}: cannot listen at port {port}: {error.strerror}"
            ) from error
        why = ""
        while not why and len(come) < hosts - 1:
            listening.settimeout(max(end - time.monotonic(), 0.01))
            try:
                one, _ = listening.accept()
            except TimeoutError:
                missing = [str(n) for n in range(1, hosts) if n not in come]
                why = f"of {hosts} hosts, {', '.join(missing)} did not come to {coordinator}"
                break
            opened.enter_context(one)
            one.settimeout(_ANSWER_S)
            heard = _heard(one, said.keys())
            if heard is None:  # not one of ours
                continue
            why = _differs(said, heard)
            come[heard["host"]] = one  # the last to say so: a host may have been started again
        for one in come.values():
            with contextlib.suppress(OSError):  # it left meanwhile, which JAX finds out
                one.sendall(json.dumps({"why": why}).encode() + b"\n")
        if why:
            raise ExperimentError(f"the hosts did not meet: {why}")


def _report(
    said: dict[str, Any], address: tuple[str, int], coordinator: str, end: float, patience_s: float
) -> None:
    trouble = "nobody answers"
    while (left := end - time.monotonic()) > 0:
        try:
            with socket.create_connection(address, timeout=min(left, _ANSWER_S)) as one:
                one.sendall(json.dumps(said).encode() + b"\n")
                # Host 0 may have begun to wait only now; it knows better who is missing.
                one.settimeout(patience_s + _ANSWER_S)
                heard = _heard(one, ["why"])
                trouble = "what is there did not answer as host 0 does"
        except OSError as error:
            trouble = error.strerror or str(error)
            heard = None
        if heard is not None:
            if why := heard["why"]:
                raise ExperimentError(f"the hosts did not meet: {why}")
            return
        time.sleep(_PAUSE_S)
    raise ExperimentError(
        f"the hosts did not meet: host 0 was not found at {coordinator} ({trouble}): start it too, "
        "and let this host reach that port"
    )


def _differs(said: dict[str, Any], heard: dict[str, Any]) -> str:
    """Why a host cannot join in; empty where it can."""
    if heard["hosts"] != said["hosts"]:
        return f"host {heard['host']} was told of {heard['hosts']} hosts, host 0 of {said['hosts']}"
    if heard["host"] not in range(1, said["hosts"]):
        return f"there is no host {heard['host']} of {said['hosts']} to wait for"
    if heard["asked"] != said["asked"]:
        return f"host {heard['host']} was given another config than host 0: give all the same"
    return ""


def _heard(one: socket.socket, names: Iterable[str]) -> dict[str, Any] | None:
    """What the other side says in its line; None where it does not say these things."""
    data = b""
    try:
        while not data.endswith(b"\n") and len(data) < _LONGEST:
            more = one.recv(_LONGEST)
            if not more:
                break
            data += more
        found = json.loads(data)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and set(names) <= set(found) else None


def _listen(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))
