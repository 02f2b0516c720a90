"""What the system says about the machine at hand, before anything is measured."""

import dataclasses
import os
import platform
from pathlib import Path

import jax

import kernels
from kernels.library import library

CPUS = Path("/sys/devices/system/cpu")
CPUINFO = Path("/proc/cpuinfo")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """What makes one machine's measurements another's, besides its load."""

    name: str  # of the processor or accelerator
    vendor: str
    platform: str  # JAX's: cpu, gpu, tpu
    cores: int  # that this process may use
    jax_version: str
    products: str  # which native products are used, or "plain"
    flags: str  # XLA's, since they set its threads


def machine() -> Machine:
    """This machine, as JAX's default device and the operating system describe it."""
    device = jax.local_devices()[0]
    on_cpu = device.platform == "cpu"
    return Machine(
        name=_cpu_field("model name", platform.processor() or platform.machine())
        if on_cpu
        else device.device_kind,
        vendor=_cpu_field("vendor_id", "unknown") if on_cpu else device.client.platform_version,
        platform=device.platform,
        cores=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else (os.cpu_count() or 1),
        jax_version=jax.__version__,
        products=library().stem if kernels.native() else "plain",
        flags=os.environ.get("XLA_FLAGS", ""),
    )


def told_cache_bytes(cpus: Path = CPUS) -> int | None:
    """The last-level cache that the system tells of, over all cores; None where it doesn't.

    A virtual machine may be told of a cache that it does not have.
    """
    found: dict[int, dict[str, int]] = {}
    for index in sorted(cpus.glob("cpu[0-9]*/cache/index[0-9]*")):
        try:
            kind = (index / "type").read_text().strip()
            level = int((index / "level").read_text())
            size = _bytes((index / "size").read_text().strip())
            shared = (index / "shared_cpu_list").read_text().strip()
        except (OSError, ValueError):
            continue  # a core that is off line, or a level that this system does not describe
        if kind in ("Unified", "Data"):
            found.setdefault(level, {})[shared] = size
    return sum(found[max(found)].values()) if found else None


def _bytes(text: str) -> int:
    scale = {"K": 2**10, "M": 2**20, "G": 2**30}
    return int(text[:-1]) * scale[text[-1]] if text[-1:] in scale else int(text)


def _cpu_field(key: str, otherwise: str) -> str:
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return otherwise
    named = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in named if name.strip() == key), otherwise)
