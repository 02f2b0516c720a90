"""Finished measurements in a bucket: one object each, folded at reading.

A bucket cannot append, so each row is an object of its own (`rows/LEASE-NUMBER.json`), which is
there as a whole or not at all; names sort in the order in which rows were finished. One run at a
time writes, by a `Lease`. Should a run that lost its lease have written a row that its successor
measured too, the first of the two counts.
"""

import types
from typing import Self

from experiments.bucket import Bucket, BucketError
from experiments.lease import BEAT_S, LOST_AFTER_S, Lease
from experiments.results import Row, decoded, encoded

_FOLDER = "rows"


class BucketResults:
    """The rows below a bucket's address, leased for writing; use it as a context manager.

    Raises `ExperimentError` when the bucket cannot be written to, another run holds the address, or
    a finished row cannot be read.
    """

    def __init__(
        self, url: str, *, beat_s: float = BEAT_S, lost_after_s: float = LOST_AFTER_S
    ) -> None:
        self._bucket = Bucket(url)
        self._lease = Lease(self._bucket, beat_s=beat_s, lost_after_s=lost_after_s)
        self._rows: dict[str, Row] = {}
        self._written = 0

    def __enter__(self) -> Self:
        self._lease.take()
        try:
            self._rows = {row["key"]: row for row in read_rows(self._bucket)}
        except BaseException:
            self._lease.release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        try:
            self._lease.release()
        except BucketError:
            if error is None:  # else it is why we end, or less than why we end
                raise

    @property
    def path(self) -> str:
        """Where the rows are."""
        return f"{self._bucket.url}/{_FOLDER}"

    @property
    def rows(self) -> tuple[Row, ...]:
        """The finished rows, in the order in which they were finished."""
        return tuple(self._rows.values())

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __getitem__(self, key: str) -> Row:
        return self._rows[key]

    def append(self, row: Row) -> None:
        """Finish one measurement: when this returns, the row is in the bucket."""
        key = row["key"]
        assert key not in self._rows, f"{key} is measured twice"
        data = encoded(row)
        self._lease.check()
        self._bucket.put(f"{_FOLDER}/{self._lease.number:06}-{self._written:06}.json", data)
        self._written += 1
        self._rows[key] = decoded(data, key, "")

    def put(self, name: str, data: bytes) -> str:
        """Write a file beside the rows; returns its address."""
        self._lease.check()
        return self._bucket.put(name, data)


def read_rows(bucket: Bucket) -> list[Row]:
    """The finished rows, in the order in which they were finished; takes no lease."""
    found = bucket.read(bucket.names(_FOLDER))
    rows: dict[str, Row] = {}
    for name, data in found.items():
        row = decoded(data, f"{bucket.url}/{name}", "delete that object")
        rows.setdefault(row["key"], row)
    return list(rows.values())
