"""An experiment whose workdir is a bucket, stopped as a spot machine is, and gone on with."""

import signal
import subprocess

from experiments.bucket import Bucket
from experiments.bucket_results import read_rows
from tests.experiments.commands import run_command
from tests.experiments.conftest import BUCKET
from tests.experiments.test_run import CLIFF, command
from tests.waiting import HANGS_S, wait_until

SMALL = [*CLIFF, "--config.dtypes=('float32',)", "--config.layers=(1,2)"]


def test_preempted_and_gone_on_with(environment: dict[str, str], s3: dict[str, str]) -> None:
    url = f"s3://{BUCKET}/preempted"
    environment = {**s3, **environment} | {k: v for k, v in s3.items() if k.startswith("AWS_")}
    process = subprocess.Popen(
        command(url, *SMALL),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    wait_until(lambda: read_rows(Bucket(url)) or process.poll() is not None)
    first = read_rows(Bucket(url))
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=HANGS_S)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert "stopped by SIGTERM; what was finished is kept, and the same command goes" in errors
    assert "Traceback" not in errors

    again = run_command("experiments.run", f"--workdir={url}", *SMALL, environment=environment)
    assert again.returncode == 0, again.stderr
    assert "held by a run" not in again.stderr  # the first one let go of it
    rows = read_rows(Bucket(url))
    assert rows[: len(first)] == first
    assert len({row["key"] for row in rows}) == len(Bucket(url).names("rows")) == len(rows) == 7
    assert f"{url}/report.html" in again.stdout
    assert b"Weights in llc" in Bucket(url).read(["report.html"])["report.html"]


def test_a_bucket_that_is_not_there_is_one_line(
    environment: dict[str, str], s3: dict[str, str]
) -> None:
    environment = environment | {k: v for k, v in s3.items() if k.startswith("AWS_")}
    done = run_command(
        "experiments.run", "--workdir=s3://nobodys-bucket/x", *SMALL, environment=environment
    )
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line]
    assert line.startswith("error: workdir s3://nobodys-bucket/x cannot be ")
