"""How much of the machine's CPU others took while we timed.

Another process, or another guest of the hypervisor, shares the cores, the cache and the memory
bus, and makes a timing collapse without a trace. The kernel tells how long all cores were busy and
how long the hypervisor kept them (`steal`), in ticks of 10 ms; what this process used itself is
known exactly. The rest is others'. Ticks are too coarse for one call of a few milliseconds, so the
samples are metered in windows of many calls.
"""

import dataclasses
import os
import time
from pathlib import Path

STAT = Path("/proc/stat")

# A window is disturbed when others used more than this share of all cores' time in it. On top come
# two ticks that the kernel may have charged to the wrong side of a window's edges.
OTHERS_SHARE = 0.05
EDGE_TICKS = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """The clocks at one moment, in seconds; `busy_s` is None where the system doesn't tell."""

    wall_s: float
    own_s: float  # CPU time of this process, all threads
    busy_s: float | None  # CPU time of everyone, and stolen time, over all cores


def read(stat: Path = STAT) -> Reading:
    """Reads the clocks; some 50 microseconds, to be kept outside what is timed."""
    return Reading(wall_s=time.perf_counter(), own_s=time.process_time(), busy_s=_busy_s(stat))


def others_share(before: Reading, after: Reading, cores: int | None = None) -> float | None:
    """The share of all cores' time between two readings that others used; None if unknown."""
    if before.busy_s is None or after.busy_s is None:
        return None
    others_s = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
    wall_s = max(after.wall_s - before.wall_s, 1e-9)
    return max(others_s, 0.0) / (wall_s * (cores or os.cpu_count() or 1))


def is_disturbed(before: Reading, after: Reading, cores: int | None = None) -> bool:
    """Whether others used more between two readings than `OTHERS_SHARE` and the ticks' error."""
    share = others_share(before, after, cores)
    if share is None:
        return False
    cores = cores or os.cpu_count() or 1
    edges = EDGE_TICKS / _ticks_per_s() / ((after.wall_s - before.wall_s) * cores + 1e-9)
    return share > OTHERS_SHARE + edges


def _busy_s(stat: Path) -> float | None:
    try:
        first = stat.read_text(encoding="ascii", errors="replace").split("\n", 1)[0].split()
        # user nice system idle iowait irq softirq steal; guest time is counted in user already
        user, nice, system, _, _, irq, softirq, steal = (int(n) for n in first[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq + steal) / _ticks_per_s()


def _ticks_per_s() -> int:
    return int(os.sysconf("SC_CLK_TCK")) if hasattr(os, "sysconf") else 100
