import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.errors import ExperimentError
from experiments.results import PARTS, SCHEMA, ResultsFile


def row(key: str) -> dict[str, object]:
    return {
        "key": key,
        "experiment": "test",
        "finished": "2026-01-01T00:00:00+00:00",
        **{part: {"some": 1} for part in PARTS},
    }


def whole(**changed: object) -> bytes:
    """A line of the file, with some fields changed."""
    return json.dumps({"schema": SCHEMA, **row("z"), **changed}).encode() + b"\n"


def test_rows_come_back_in_order(tmp_path: Path) -> None:
    with ResultsFile(tmp_path / "new" / "folder") as results:
        results.append(row("b"))
        results.append(row("a"))
        assert "a" in results
        assert "c" not in results
    with ResultsFile(tmp_path / "new" / "folder") as results:
        assert [r["key"] for r in results.rows] == ["b", "a"]
        assert results["a"] == {"schema": SCHEMA, **row("a")}


@pytest.mark.parametrize("cut", [1, 7, 30])
def test_half_written_row_is_set_aside(tmp_path: Path, cut: int) -> None:
    with ResultsFile(tmp_path) as results:
        results.append(row("a"))
        results.append(row("b"))
    path = tmp_path / "results.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    first = whole.index(b"\n") + 1
    with ResultsFile(tmp_path) as results:
        assert [r["key"] for r in results.rows] == ["a"]
        results.append(row("b"))
    assert path.read_bytes() == whole
    aside = (tmp_path / "results.jsonl.partial").read_bytes()
    assert aside == whole[first:-cut] + b"\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{not json}\n", "line 2 is not a finished measurement: take that line out"),
        (b"[1, 2]\n", "line 2 is not a finished measurement"),
        (b'{"schema": 1}\n', "line 2 is not a finished measurement"),
        (b'{"schema": 99, "key": "z"}\n', "line 2 has schema 99, this version reads 1"),
        (b'{"schema": 1, "key": "z"}\n', "line 2 is not a finished measurement"),
        (whole(measured={}), "line 2 is not a finished measurement"),
        (whole(machine=None), "line 2 is not a finished measurement"),
        (whole(key=["z"]), "line 2 is not a finished measurement"),
        (whole(key="a"), "line 2 repeats 'a'"),
    ],
)
def test_damaged_rows_are_refused(tmp_path: Path, line: bytes, message: str) -> None:
    with ResultsFile(tmp_path) as results:
        results.append(row("a"))
    with (tmp_path / "results.jsonl").open("ab") as out:
        out.write(line)
    before = (tmp_path / "results.jsonl").read_bytes()
    with pytest.raises(ExperimentError, match=message), ResultsFile(tmp_path):
        pass
    assert (tmp_path / "results.jsonl").read_bytes() == before


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with ResultsFile(tmp_path) as first:
        first.append(row("a"))
        with pytest.raises(ExperimentError, match="being written by another run"):
            ResultsFile(tmp_path).__enter__()
    with ResultsFile(tmp_path) as second:
        assert "a" in second


def test_a_row_is_appended_once(tmp_path: Path) -> None:
    with ResultsFile(tmp_path) as results:
        results.append(row("a"))
        with pytest.raises(AssertionError, match="measured twice"):
            results.append(row("a"))


def test_a_full_disk_leaves_no_half_row(tmp_path: Path) -> None:
    with ResultsFile(tmp_path) as results:
        results.append(row("a"))
        size = results.path.stat().st_size
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, hard))
            with pytest.raises(ExperimentError, match="only part of a row"):
                results.append(row("b"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, before)
        assert results.path.stat().st_size == size
        results.append(row("b"))
    with ResultsFile(tmp_path) as results:
        assert [r["key"] for r in results.rows] == ["a", "b"]


def test_a_file_beside_the_rows_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("old")
    (tmp_path / "cliff.png").mkdir()  # a folder in the way
    with ResultsFile(tmp_path) as results:
        assert results.put("report.html", b"new") == tmp_path / "report.html"
        with pytest.raises(OSError, match=r"cliff\.png"):
            results.put("cliff.png", b"png")
    assert (tmp_path / "report.html").read_text() == "new"
    assert not list(tmp_path.glob(".*"))


WRITER = """
import sys
from pathlib import Path
from experiments.results import PARTS, ResultsFile
row = {"experiment": "test", "finished": "now", **{part: {"some": 1} for part in PARTS}}
with ResultsFile(Path(sys.argv[1])) as results:
    print("open", flush=True)
    for i in range(int(sys.argv[2])):
        if f"row {i}" not in results:
            results.append({**row, "key": f"row {i}", "filler": "x" * 5000})
"""


def test_killed_writers_lose_and_double_nothing(tmp_path: Path) -> None:
    total = 1000
    kept: list[str] = []
    for kill_after_s in (0.01, 0.05, 0.2, None):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(total)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.getcwd()},
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"open\n"
            try:
                writer.wait(kill_after_s)
            except subprocess.TimeoutExpired:
                writer.kill()
        lines = (tmp_path / "results.jsonl").read_text().split("\n")[:-1]
        keys = [json.loads(line)["key"] for line in lines]
        assert keys[: len(kept)] == kept
        kept = keys
    assert kept == [f"row {i}" for i in range(total)]
