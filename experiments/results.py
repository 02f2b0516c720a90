"""Finished measurements, one JSON object a line, that survive a kill at any moment.

`Results` is what experiments see of them; `ResultsFile` keeps them in a folder of this machine
(`experiments.bucket_results` in a bucket).

A row is finished when its newline is on the disk: it is appended by a single write to a file
opened with O_APPEND, then synced. What a killed run left after the last newline is a half-written
row; the next run sets it aside (in `results.jsonl.partial`) and measures it again. One process at
a time holds the file, by an advisory lock that the kernel drops with the process, and each row has
a `key` that says what was measured, so that no finished row is lost or doubled.
"""

import fcntl
import json
import os
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, Self

from experiments.errors import ExperimentError
from experiments.whole_file import write_whole

PARTS = ("config", "machine", "versions", "git", "measured")  # objects that every row has

SCHEMA = 1  # of a row; raised when a field changes its meaning

Row = dict[str, Any]


class Results(Protocol):
    """Finished measurements, held by one run; use it as a context manager."""

    @property
    def path(self) -> Path | str:
        """Where the rows are, for messages."""
        ...

    @property
    def rows(self) -> tuple[Row, ...]:
        """The finished rows, in the order in which they were finished."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None: ...

    def __contains__(self, key: str) -> bool: ...

    def __getitem__(self, key: str) -> Row: ...

    def append(self, row: Row) -> None:
        """Finish one measurement: when this returns, a kill cannot undo it."""
        ...

    def put(self, name: str, data: bytes) -> Path | str:
        """Write a file beside the rows, whole or not at all; returns where it is."""
        ...


class ResultsFile:
    """`workdir/results.jsonl`, locked for writing; use it as a context manager.

    Raises `ExperimentError` when the workdir cannot be written to, another process holds the file,
    or a finished row cannot be read.
    """

    def __init__(self, workdir: Path) -> None:
        self.path = workdir / "results.jsonl"
        self._descriptor = -1
        self._rows: dict[str, Row] = {}

    def __enter__(self) -> Self:
        folder = self.path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(
                self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644
            )
        except OSError as error:
            why = "it is no folder" if isinstance(error, FileExistsError) else error.strerror
            raise ExperimentError(f"workdir {folder} cannot be written to: {why}") from error
        try:
            self._lock()
            _sync_folder(self.path.parent)
            self._rows = {row["key"]: row for row in self._read()}
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self._close()

    @property
    def rows(self) -> tuple[Row, ...]:
        """The finished rows, in the order in which they were finished."""
        return tuple(self._rows.values())

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __getitem__(self, key: str) -> Row:
        return self._rows[key]

    def append(self, row: Row) -> None:
        """Finish one measurement: when this returns, the row is on the disk."""
        key = row["key"]
        assert key not in self._rows, f"{key} is measured twice"
        line = encoded(row) + b"\n"
        before = os.fstat(self._descriptor).st_size
        written = os.write(self._descriptor, line)
        if written != len(line):  # a full disk takes a part of a line
            os.ftruncate(self._descriptor, before)
            raise ExperimentError(f"{self.path}: the disk took only part of a row: make room")
        os.fsync(self._descriptor)
        self._rows[key] = json.loads(line)

    def put(self, name: str, data: bytes) -> Path:
        """Write a file beside the rows, whole or not at all; returns its path."""
        return write_whole(self.path.parent / name, data)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ExperimentError(
                f"{self.path} is being written by another run: wait for it, or use another workdir"
            ) from None

    def _read(self) -> list[Row]:
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with (self.path.parent / (self.path.name + ".partial")).open("ab") as aside:
                aside.write(data[whole:] + b"\n")
                aside.flush()
                os.fsync(aside.fileno())
            os.ftruncate(self._descriptor, whole)
            os.fsync(self._descriptor)
        return parse(data[:whole], self.path)

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)  # drops the lock too
            self._descriptor = -1


def parse(data: bytes, path: Path) -> list[Row]:
    """The rows in whole lines of `data`; `path` is for the message of an `ExperimentError`."""
    lines = data.split(b"\n")[:-1]
    rows = [
        decoded(line, f"{path}, line {number}", "take that line out")
        for number, line in enumerate(lines, start=1)
    ]
    if (double := first_double(rows)) is not None:
        raise ExperimentError(
            f"{path}, line {double + 1} repeats {rows[double]['key']!r}: "
            "take one of the two lines out"
        )
    return rows


def encoded(row: Row) -> bytes:
    """A row as JSON on one line."""
    return json.dumps({"schema": SCHEMA, **row}, allow_nan=False).encode()


def decoded(data: bytes, where: str, remedy: str) -> Row:
    """The row that `encoded` made; `where` and `remedy` are for an `ExperimentError`'s message."""
    try:
        row: Row = json.loads(data)
        schema, _ = row["schema"], row["key"]
        damaged = schema == SCHEMA and not _whole(row)
    except (ValueError, KeyError, TypeError):
        damaged = True
    if damaged:
        raise ExperimentError(
            f"{where} is not a finished measurement: {remedy}, or use another workdir"
        )
    if schema != SCHEMA:
        raise ExperimentError(
            f"{where} has schema {schema}, this version reads {SCHEMA}: use another workdir"
        )
    return row


def first_double(rows: Iterable[Row]) -> int | None:
    """The position of the first row whose key an earlier one has."""
    seen: set[str] = set()
    for position, row in enumerate(rows):
        if row["key"] in seen:
            return position
        seen.add(row["key"])
    return None


def _whole(row: Row) -> bool:
    """Whether a row has all that `rows.row` puts in."""
    return all(isinstance(row[name], str) for name in ("key", "experiment", "finished")) and all(
        isinstance(row[name], dict) and row[name] for name in PARTS
    )


def _sync_folder(folder: Path) -> None:
    """Make the file's name durable too, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
