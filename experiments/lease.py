"""One writer at a time in a bucket, where no kernel drops a lock with its process.

A run takes the lease by creating `lease/N.json` for the next N, which only one can. It writes a
heartbeat into it every `beat_s`, and marks it released at its end. A newcomer that finds the newest
lease unreleased watches it: another beat means that its owner lives, and none for `lost_after_s`
that it is gone. No two machines' clocks are compared.

An owner that could not beat for so long that a newcomer may have taken over (its machine slept, or
the network was gone) finds out in `check`, before it writes.
"""

import json
import secrets
import sys
import threading
import time

from experiments.bucket import Bucket, BucketError
from experiments.errors import ExperimentError

BEAT_S = 10.0
LOST_AFTER_S = 45.0
_SAFE = 0.7  # of `lost_after_s`: an owner stops writing before anyone can think it gone
_FOLDER = "lease"


class Lease:
    """The right to write below a bucket's address; `take` it, `check` it, `release` it."""

    def __init__(
        self, bucket: Bucket, *, beat_s: float = BEAT_S, lost_after_s: float = LOST_AFTER_S
    ) -> None:
        assert 2 * beat_s < _SAFE * lost_after_s, "one beat may fail"
        self._bucket = bucket
        self._beat_s, self._lost_after_s = beat_s, lost_after_s
        self._owner = secrets.token_hex(8)  # names no person and no machine
        self._name = ""
        self._beats = 0
        self._beaten_s = 0.0  # when the last beat was begun that got through
        self._trouble = ""
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def number(self) -> int:
        """Of this lease: later owners have higher ones."""
        return _number(self._name)

    def take(self) -> None:
        """Become the owner; raises `ExperimentError` where another run is it."""
        names = self._bucket.names(_FOLDER)
        if names:
            self._wait_until_free(names[-1])
        self._name = f"{_FOLDER}/{_number(names[-1]) + 1 if names else 1:06}.json"
        self._beaten_s = time.monotonic()
        if not self._bucket.create(self._name, self._content()):
            raise self._refusal()
        self._bucket.remove(names)
        self._thread = threading.Thread(target=self._beat, daemon=True, name="heartbeat")
        self._thread.start()

    def check(self) -> None:
        """Raises `ExperimentError` if this run may no longer be the owner."""
        silent_s = time.monotonic() - self._beaten_s
        if silent_s > _SAFE * self._lost_after_s:
            why = f"no heartbeat got through for {silent_s:.0f} s"
            raise ExperimentError(
                f"this run lost its hold on {self._bucket.url}: {why}"
                f"{f' ({self._trouble})' if self._trouble else ''}; what was finished is kept, and "
                "the same command goes on from there"
            )
        if self._bucket.names(_FOLDER)[-1:] != [self._name]:
            raise ExperimentError(
                f"another run has taken over {self._bucket.url}: this one ends, and what it had "
                "finished is kept"
            )

    def release(self) -> None:
        """Let the next run begin at once."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()
            self._bucket.put(self._name, self._content(released=True))
            self._thread = None

    def _wait_until_free(self, name: str) -> None:
        before = self._bucket.read([name]).get(name)
        since = time.monotonic()
        told = False
        while before is not None and not json.loads(before).get("released"):
            if time.monotonic() - since > self._lost_after_s:
                return
            if not told:
                print(
                    f"{self._bucket.url} is held by a run that may be gone: watching for its "
                    f"heartbeat, for {self._lost_after_s:.0f} s at most",
                    file=sys.stderr,
                )
                told = True
            time.sleep(self._beat_s / 5)
            now = self._bucket.read([name]).get(name)
            if now is not None and now != before and not json.loads(now).get("released"):
                raise self._refusal()
            before = now if now != before else before

    def _refusal(self) -> ExperimentError:
        return ExperimentError(
            f"{self._bucket.url} is being written by another run: wait for it, or use another "
            "workdir"
        )

    def _content(self, *, released: bool = False) -> bytes:
        content = {"owner": self._owner, "beats": self._beats, "released": released}
        return json.dumps(content).encode()

    def _beat(self) -> None:
        while not self._end.wait(self._beat_s):
            begun_s = time.monotonic()
            if begun_s - self._beaten_s > _SAFE * self._lost_after_s:
                return  # too late: `check` tells
            self._beats += 1
            try:
                self._bucket.put(self._name, self._content())
            except BucketError as error:
                self._trouble = str(error)
            else:
                self._beaten_s, self._trouble = begun_s, ""


def _number(name: str) -> int:
    return int(name.rpartition("/")[2].removesuffix(".json"))
