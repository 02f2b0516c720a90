"""HumanEval over several host devices, and over two processes that are as two hosts."""

import contextlib
import json
import random
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.experiments.commands import Started, run_command
from tests.experiments.conftest import TWO_DEVICES
from tests.experiments.test_run import CLIFF, HUMANEVAL, command, rows
from tests.waiting import HANGS_S, wait_until


def test_the_model_is_spread_over_the_devices_that_are_there(
    environment: dict[str, str], tmp_path: Path
) -> None:
    done = run_command(
        "experiments.run",
        f"--workdir={tmp_path}",
        *HUMANEVAL,
        "--config.tasks=1",
        "--config.placements=('on-chip','fit')",
        environment={**environment, "XLA_FLAGS": TWO_DEVICES},
    )
    assert done.returncode == 0, done.stderr
    found = rows(tmp_path)
    assert [row["measured"]["mesh"] for row in found] == [{"tensor": 2}] * 2
    assert all(row["machine"]["devices"] == 2 for row in found)


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        (2, "config.tensor is 3, and there are 2 devices: lower it"),
        (8, "config.tensor is 3: "),  # four heads
    ],
)
def test_a_mesh_that_cannot_be_is_refused_before_anything_is_measured(
    environment: dict[str, str], tmp_path: Path, devices: int, message: str
) -> None:
    wrong = run_command(
        "experiments.run",
        f"--workdir={tmp_path / 'results'}",
        *HUMANEVAL,
        "--config.tensor=3",
        environment={
            **environment,
            "XDG_CACHE_HOME": str(tmp_path / "empty"),  # where nothing says what the machine is
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        },
    )
    assert wrong.returncode == 1
    (line,) = wrong.stderr.strip().splitlines()
    assert message in line
    assert not (tmp_path / "results").exists()


def free_port() -> int:
    """A port below those that the system hands out, which could be another's a moment later."""
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("", port))
            return port


Start = Callable[..., list[Started]]


@pytest.fixture
def hosts(environment: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """Starts the run on two hosts; both are ended with the test."""
    with contextlib.ExitStack() as started:

        def start(*flags: str) -> list[Started]:
            coordinator = f"--coordinator=127.0.0.1:{free_port()}"
            return [
                started.enter_context(
                    Started(
                        "experiments.run",
                        # Only host 0's workdir is used: the other's could not be made.
                        f"--workdir={'/proc/nowhere' if host else tmp_path}",
                        *HUMANEVAL,
                        *flags,
                        "--hosts=2",
                        f"--host={host}",
                        coordinator,
                        environment=environment,
                    )
                )
                for host in (0, 1)
            ]

        yield start


LONG = ["--config.tasks=10", "--config.max_tokens=64"]


def test_two_hosts_compute_and_one_writes_until_one_is_lost(hosts: Start, tmp_path: Path) -> None:
    first, second = hosts(*LONG)
    wait_until(lambda: len(rows(tmp_path)) >= 2 or first.poll() is not None)
    second.kill()
    done = first.ended()
    assert done.returncode == 1, done.stderr
    assert "error: another of the 2 hosts is gone" in done.stderr
    assert "the same command on all hosts goes on from there" in done.stderr
    kept = rows(tmp_path)
    assert len(kept) >= 2
    assert all(row["measured"]["mesh"] == {"tensor": 2} for row in kept)


def test_a_host_that_is_preempted_says_so(environment: dict[str, str], tmp_path: Path) -> None:
    """By `python -m` itself, which the signal ends."""
    several = ["--hosts=2", f"--coordinator=127.0.0.1:{free_port()}"]
    with contextlib.ExitStack() as ended_with_the_test:
        first, second = (
            ended_with_the_test.enter_context(
                subprocess.Popen(
                    [*command(tmp_path, *HUMANEVAL, *LONG, *several), f"--host={host}"],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    env=environment,
                )
            )
            for host in (0, 1)
        )
        ended_with_the_test.callback(second.kill)
        ended_with_the_test.callback(first.kill)
        wait_until(lambda: rows(tmp_path) or first.poll() is not None)
        first.send_signal(signal.SIGTERM)
        _, errors = first.communicate(timeout=HANGS_S)
        assert first.returncode == 128 + signal.SIGTERM, errors
        assert "stopped by SIGTERM; what was finished is kept" in errors
        second.communicate(timeout=HANGS_S)
        assert second.returncode != 0


def test_both_hosts_end_well(hosts: Start, tmp_path: Path) -> None:
    first, second = (host.ended() for host in hosts("--config.tasks=1"))
    assert first.returncode == 0, first.stderr
    assert str(tmp_path / "report.html") in first.stdout
    assert second.returncode == 0, second.stderr
    assert "report.html" not in second.stdout
    assert "HumanEval" not in second.stderr  # its progress is the same
    (keys,) = {tuple(json.dumps(row["key"]) for row in rows(tmp_path))}
    assert len(keys) == len(set(keys)) == 2


def test_what_host_0_is_refused_all_are(hosts: Start, tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text("{}\n")
    for host in hosts("--config.tasks=1"):
        done = host.ended()
        assert done.returncode == 1
        assert "error: " in done.stderr
        assert "line 1 is not a finished measurement" in done.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([*HUMANEVAL, "--hosts=2"], "give all three, the host below the hosts"),
        ([*HUMANEVAL, "--hosts=2", "--host=2", "--coordinator=127.0.0.1:1"], "give all three"),
        (
            [*HUMANEVAL, "--hosts=2", "--host=1", "--coordinator=nowhere"],
            "give the address and a free port",
        ),
        ([*CLIFF, "--hosts=2", "--coordinator=127.0.0.1:1"], "this experiment runs on one host"),
    ],
)
def test_flags_that_do_not_go_together(
    environment: dict[str, str], tmp_path: Path, flags: list[str], message: str
) -> None:
    done = run_command("experiments.run", f"--workdir={tmp_path}", *flags, environment=environment)
    assert done.returncode == 1
    assert message in done.stderr
