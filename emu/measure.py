"""Wall-clock seconds per call, after warm-up, on a device that has finished.

The samples are metered in windows (`emu.load`): those of a window in which other processes took
the machine's CPU are set apart, and the median and percentiles are of the others. How many were
set apart is part of the result, and so is the p99 of all of them.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from emu import load
from emu.errors import EmuError

WINDOW_S = 0.25  # 25 ticks of the kernel's clock for each core
MOST_DISTURBED = 0.3  # a row with more than this share of its samples disturbed is marked


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latency:
    """What many timings of one call come to, in seconds.

    The median and percentiles are of the `count` undisturbed samples, or of all where every one
    was disturbed (`disturbed` is then true).
    """

    median_s: float
    mean_s: float
    p10_s: float
    p90_s: float
    p99_s: float
    count: int  # samples that those are of
    disturbed_count: int  # samples that others' load disturbed
    disturbed_share: float
    disturbed: bool  # the share is over `MOST_DISTURBED`: don't trust this row
    p99_all_s: float  # of all samples, the disturbed ones too
    metered: bool  # False: this system doesn't tell what others used, so nothing was set apart

    @classmethod
    def of(
        cls,
        samples_s: Sequence[float],
        disturbed: Sequence[bool] | None = None,
        metered: bool | None = None,
    ) -> "Latency":
        """Sums up timings made anywhere; `disturbed` says, for each, whether to set it apart.

        `metered` is taken to be true where `disturbed` is given.
        """
        everything = np.asarray(samples_s, np.float64)
        if everything.ndim != 1 or not everything.size:
            raise EmuError("a latency needs at least one sample")
        if not np.all(np.isfinite(everything)):
            raise EmuError("a latency's samples must be finite seconds")
        marks = (
            np.zeros(everything.size, bool) if disturbed is None else np.asarray(disturbed, bool)
        )
        if marks.shape != everything.shape:
            raise EmuError(f"{everything.size} samples, but {marks.size} marks of disturbance")
        calm = everything if marks.all() else everything[~marks]
        p10, median, p90, p99 = (float(v) for v in np.percentile(calm, (10, 50, 90, 99)))
        share = float(marks.mean())
        return cls(
            median_s=median,
            mean_s=float(calm.mean()),
            p10_s=p10,
            p90_s=p90,
            p99_s=p99,
            count=int(calm.size),
            disturbed_count=int(marks.sum()),
            disturbed_share=share,
            disturbed=share > MOST_DISTURBED,
            p99_all_s=float(np.percentile(everything, 99)),
            metered=disturbed is not None if metered is None else metered,
        )

    def __str__(self) -> str:
        text = (
            f"{self.median_s * 1e3:.3f} ms (p10 {self.p10_s * 1e3:.3f}, p90 "
            f"{self.p90_s * 1e3:.3f}, p99 {self.p99_s * 1e3:.3f}; {self.count} samples"
        )
        if not self.metered:
            text += "; others' load not metered"
        elif self.disturbed_count:
            text += f"; {self.disturbed_share:.0%} disturbed"
        return text + ")"


class Recorder:
    """Collects timings as they are made, and meters others' load window by window.

    For loops that time themselves, such as one that streams tokens:

        recorder = emu.Recorder()
        for ...:
            recorder.add(seconds)
        print(recorder.latency())
    """

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._samples: list[float] = []
        self._marks: list[bool] = []  # one for each sample of a closed window
        self._start = load.read()
        self._before: load.Reading | None = None  # where the last closed window began
        self._metered = self._start.busy_s is not None

    def add(self, seconds: float) -> None:
        """Takes one sample that has just been timed."""
        self._samples.append(seconds)
        if time.perf_counter() - self._start.wall_s >= self._window_s:
            self._close()

    def restart(self) -> None:
        """Begins a new window: the time since the last sample is nobody's (a pause, a prefill)."""
        self._close()
        self._start, self._before = load.read(), None

    @property
    def calm_count(self) -> int:
        """How many samples were not disturbed, as far as is known yet."""
        return len(self._samples) - sum(self._marks)

    @property
    def samples_s(self) -> tuple[float, ...]:
        """All samples so far, disturbed or not."""
        return tuple(self._samples)

    @property
    def marks(self) -> tuple[bool, ...]:
        """Of each sample so far, whether others' load disturbed it."""
        self._close()
        return tuple(self._marks)

    def latency(self) -> Latency:
        """What the samples so far come to."""
        self._close()
        return Latency.of(self._samples, self._marks, self._metered)

    def _close(self) -> None:
        new = len(self._samples) - len(self._marks)
        if not new:
            return
        now = load.read()
        # A last window may be too short for the kernel's ticks: meter it with the one before.
        short = now.wall_s - self._start.wall_s < self._window_s / 2
        since = self._before if short and self._before else self._start
        self._marks += [load.is_disturbed(since, now)] * new
        self._before, self._start = self._start, now


def measure(
    call: Callable[..., Any],
    *,
    carry: Any = None,
    samples: int = 100,
    warmup: int = 5,
    min_seconds: float = 0.5,
    patience: float = 1.0,
    window_s: float = WINDOW_S,
) -> Latency:
    """Times `call()`, or `carry = call(carry)` where a carry is given, again and again.

    Args:
      call: what to time. With a carry it returns the next one and may donate the one it got, as a
        decode step does with its cache: `lambda cache: step(cache, tokens)[1]`.
      carry: the first carry. It is used up when the call donates it.
      samples: how many undisturbed samples are wanted, at the least.
      warmup: calls before the first sample; the first of them compiles.
      min_seconds: sampling goes on for at least this long.
      patience: where others disturb the samples, up to `patience * samples` more are taken.
      window_s: how long a stretch is metered at once; see `emu.load`.

    Every sample ends with `jax.block_until_ready` on what the call returned.
    """
    if samples < 1 or warmup < 0 or patience < 0:
        raise EmuError("measure: samples must be at least 1, warmup and patience at least 0")
    stateful = carry is not None

    def once(carry: Any) -> Any:
        result = call(carry) if stateful else call()
        return jax.block_until_ready(result)

    for _ in range(warmup):
        carry = once(carry)
    recorder = Recorder(window_s)
    begin = time.perf_counter()
    taken, most = 0, samples + int(patience * samples)
    while True:
        start = time.perf_counter()
        carry = once(carry)
        end = time.perf_counter()
        recorder.add(end - start)
        taken += 1
        enough = recorder.calm_count >= samples or taken >= most
        if enough and end - begin >= min_seconds:
            return recorder.latency()
