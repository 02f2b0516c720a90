"""How much RAM this process may use: the machine's, or its control group's where that is less."""

from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")
# Of what is free, this share may be planned for; the rest is for what else runs meanwhile.
PLANNED_SHARE = 0.8


def total_bytes(cgroup: Path = CGROUP) -> int:
    """RAM that this process may ever use."""
    limit, _ = _limit_and_use(cgroup)
    total = int(psutil.virtual_memory().total)
    return total if limit is None else min(total, limit)


def available_bytes(cgroup: Path = CGROUP) -> int:
    """RAM that may be planned for now: `PLANNED_SHARE` of what is free."""
    free = int(psutil.virtual_memory().available)
    limit, used = _limit_and_use(cgroup)
    if limit is not None and used is not None:
        free = min(free, max(limit - used, 0))
    return int(free * PLANNED_SHARE)


def _limit_and_use(cgroup: Path) -> tuple[int | None, int | None]:
    """The group's limit and what it uses, from version 2 of control groups or else version 1."""
    if (cgroup / "memory.max").exists():
        return _number(cgroup / "memory.max"), _number(cgroup / "memory.current")
    first = cgroup / "memory"
    return _number(first / "memory.limit_in_bytes"), _number(first / "memory.usage_in_bytes")


def _number(file: Path) -> int | None:
    """The number in a control group's file; None where there is no such file, or no limit."""
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):  # 'max' is no number: no limit
        return None
