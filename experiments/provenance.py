"""Where a result came from: the machine, the versions, and the commit.

Nothing that names a person or a network goes in: no host name, no user, no path.
"""

import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax
import psutil

import kernels

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "ml_collections")


@functools.cache
def machine() -> dict[str, Any]:
    """The processor, the cores this process may use, memory, JAX's devices, our products."""
    return {
        "processor": _processor(),
        "cores": cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()}",
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "products": "native" if kernels.native() else "plain JAX",
    }


@functools.cache
def versions() -> dict[str, str]:
    """Python and the packages whose version can change a figure."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        found[package] = importlib.metadata.version(package)
    return found


@functools.cache
def git() -> dict[str, Any]:
    """The commit of this checkout, and whether tracked files differ from it; null outside git."""
    root = Path(__file__).resolve().parent.parent
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": bool(changed)}


def same_machine(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two rows can share a table: processor, cores, JAX's devices and products agree."""
    decisive = ("processor", "cores", "backend", "device", "devices", "products")
    return all(a.get(k) == b.get(k) for k in decisive)


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=20
    )
    return done.stdout.strip()


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        return platform.processor() or platform.machine()
    return platform.processor() or platform.machine()
