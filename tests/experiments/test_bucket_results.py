import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from experiments import bucket_results
from experiments.bucket import Bucket, BucketError
from experiments.bucket_results import BucketResults
from experiments.errors import ExperimentError
from experiments.lease import Lease
from experiments.results import PARTS, SCHEMA, ResultsFile
from experiments.workdir import open_results, read
from tests.experiments.conftest import BUCKET
from tests.waiting import wait_until

ROOT = Path(__file__).parent.parent.parent
# Who lives stays the owner on the busiest machine; whoever has died is given up soon.
ALIVE = {"beat_s": 0.2, "lost_after_s": 600.0}
IMPATIENT = {"beat_s": 0.2, "lost_after_s": 1.5}


@pytest.fixture(params=["memory", "s3"])
def url(request: pytest.FixtureRequest, s3: dict[str, str]) -> Iterator[str]:
    """An empty address."""
    name = f"{request.param}://{BUCKET}/{request.node.name.replace('[', '-').rstrip(']')}"
    yield name
    if request.param == "memory":
        fsspec.filesystem("memory").store.clear()


def row(key: str) -> dict[str, object]:
    return {
        "key": key,
        "experiment": "test",
        "finished": "2026-01-01T00:00:00+00:00",
        **{part: {"some": 1} for part in PARTS},
    }


def objects(url: str, folder: str) -> list[str]:
    return Bucket(url).names(folder)


def test_rows_come_back_in_order(url: str) -> None:
    with open_results(url) as results:
        assert isinstance(results, BucketResults)
        assert results.rows == ()
        results.append(row("b"))
        results.append(row("a"))
        assert read(url) == list(results.rows)  # others may read meanwhile
    with BucketResults(url) as results:
        assert [r["key"] for r in results.rows] == ["b", "a"]
        assert results["a"] == {"schema": SCHEMA, **row("a")}
        assert "c" not in results
        results.append(row("c"))
        with pytest.raises(AssertionError, match="measured twice"):
            results.append(row("c"))
        assert results.put("report.html", b"<p>") == f"{url}/report.html"
    assert [r["key"] for r in read(url)] == ["b", "a", "c"]
    assert len(objects(url, "rows")) == 3
    assert Bucket(url).read(["report.html", "none"]) == {"report.html": b"<p>"}


def test_the_second_run_is_refused_while_the_first_lives(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with BucketResults(url, **ALIVE) as first:
        with pytest.raises(ExperimentError, match="is being written by another run: wait for it"):
            BucketResults(url, **ALIVE).__enter__()
        first.append(row("a"))  # and the first is not disturbed
    assert "watching for its heartbeat" in capsys.readouterr().err
    with BucketResults(url, **ALIVE) as second:  # released: nothing to wait for
        assert "a" in second
    assert capsys.readouterr().err == ""


def test_of_two_that_begin_at_once_one_is_refused(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with BucketResults(url) as results:
        results.append(row("a"))
    names = objects(url, "lease")
    with BucketResults(url), monkeypatch.context() as patch:
        patch.setattr(Bucket, "names", lambda *_: names)  # as listed before the first took it
        with pytest.raises(ExperimentError, match="is being written by another run"):
            BucketResults(url).__enter__()


def test_a_killed_owner_is_followed_and_cannot_write_any_more(url: str) -> None:
    gone = BucketResults(url, **ALIVE)
    gone.__enter__()
    gone.append(row("a"))
    gone._lease._end.set()  # its heart stops, as in a machine that is paused
    gone._lease._thread.join()
    gone._lease._beaten_s -= ALIVE["lost_after_s"]  # a while ago
    with BucketResults(url, **IMPATIENT) as follower:
        follower._lease._lost_after_s = ALIVE["lost_after_s"]
        assert "a" in follower
        with pytest.raises(ExperimentError, match=r"lost its hold on .*: no heartbeat got through"):
            gone.append(row("b"))
        gone._lease._beaten_s = time.monotonic()  # even if it thinks that it is in time
        with pytest.raises(ExperimentError, match="another run has taken over"):
            gone.append(row("b"))
        follower.append(row("b"))
    assert [r["key"] for r in read(url)] == ["a", "b"]


def test_a_heartbeat_that_fails_is_told_of(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with BucketResults(url, **IMPATIENT) as results:
        with monkeypatch.context() as patch:
            patch.setattr(Bucket, "put", _unplugged)
            wait_until(lambda: not results._lease._thread.is_alive())
        with pytest.raises(ExperimentError, match=r"for \d+ s \(the cable is out\); what was"):
            results.append(row("a"))
    with BucketResults(url, **ALIVE) as results:
        results.append(row("a"))


def _unplugged(*_: object) -> str:
    raise BucketError("the cable is out")


def test_what_was_measured_twice_counts_once(url: str) -> None:
    with BucketResults(url) as results:
        results.append(row("a"))
        late = {**row("a"), "finished": "later"}
        Bucket(url).put("rows/000001-000009.json", json.dumps({"schema": SCHEMA, **late}).encode())
    assert read(url) == [{"schema": SCHEMA, **row("a")}]


def test_a_damaged_row_is_refused_and_the_address_left_free(url: str) -> None:
    Bucket(url).put("rows/000001-000000.json", b"{}")
    match = r"rows/000001-000000.json is not a finished measurement: delete that object"
    with pytest.raises(ExperimentError, match=match):
        BucketResults(url, **ALIVE).__enter__()
    Bucket(url).remove(["rows/000001-000000.json"])
    with BucketResults(url, **ALIVE) as results:
        assert results.rows == ()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/x", r"ftp:// is not known: there are gs://, s3://, memory://"),
        ("s3://", r"workdir s3:// names no bucket: write s3://BUCKET/FOLDER"),
        ("s3://no-such-bucket/x", r"workdir s3://no-such-bucket/x cannot be .*: .*bucket"),
    ],
)
def test_addresses_that_cannot_be_used(s3: dict[str, str], url: str, message: str) -> None:
    with pytest.raises(BucketError, match=message):
        open_results(url).__enter__()


def test_a_bucket_without_permission_is_one_line(
    s3: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError("Access Denied")

    bucket = Bucket(f"s3://{BUCKET}/refused")
    monkeypatch.setattr(bucket._files, "pipe_file", refused)
    with pytest.raises(BucketError, match="these credentials have no permission for it"):
        Lease(bucket).take()


def test_googles_way_of_saying_forbidden_is_the_same_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise OSError("Forbidden: https://storage.googleapis.com/upload/storage/v1/b/some/o")

    bucket = Bucket("memory://some/where")
    monkeypatch.setattr(bucket._files, "pipe_file", forbidden)
    with pytest.raises(BucketError, match="cannot be written to: these credentials have no perm"):
        bucket.put("rows/1.json", b"x")


def test_without_the_extra_a_bucket_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)  # as if it were not installed
    with pytest.raises(BucketError, match=r"pip install 'emu\[cloud\]'"):
        Bucket("gs://some/where")


def test_reading_takes_folders_and_files_too(tmp_path: Path) -> None:
    with ResultsFile(tmp_path) as results:
        results.append(row("a"))
        assert read(str(tmp_path)) == read(str(tmp_path / "results.jsonl")) == list(results.rows)
    for empty in (str(tmp_path / "none"), "memory://nothing/here"):
        with pytest.raises(ExperimentError, match="no finished measurements in"):
            read(empty)


WRITER = """
import sys
from experiments.results import PARTS
from experiments.bucket_results import BucketResults
row = {"experiment": "test", "finished": "now", **{part: {"some": 1} for part in PARTS}}
with BucketResults(sys.argv[1], beat_s=0.3, lost_after_s=3.0) as results:
    results._lease._lost_after_s = 600.0  # the owner now, on the busiest machine too
    print("open", flush=True)
    for i in range(int(sys.argv[2])):
        if f"row {i}" not in results:
            results.append({**row, "key": f"row {i}"})
"""


def test_killed_writers_lose_and_double_nothing(s3: dict[str, str]) -> None:
    url, total = f"s3://{BUCKET}/killed", 60
    kept: list[str] = []
    for kill_after_s in (0.05, 0.2, None):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, url, str(total)],
            stdout=subprocess.PIPE,
            env=s3,
            cwd=ROOT,
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"open\n"
            try:
                writer.wait(kill_after_s)
            except subprocess.TimeoutExpired:
                writer.kill()
        rows = bucket_results.read_rows(Bucket(url))
        keys = [r["key"] for r in rows]
        assert keys[: len(kept)] == kept
        assert len(Bucket(url).names("rows")) == len(rows)
        kept = keys
    assert kept == [f"row {i}" for i in range(total)]
