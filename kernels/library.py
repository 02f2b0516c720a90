"""Where the native products for this machine lie.

The library is named by a hash of all that goes into it (sources, flags, jaxlib, and the
processor's features, since it is compiled for this very processor), so a library that fits
another machine or another jaxlib is never loaded: it just isn't there, and the plain JAX products
are used.
"""

import functools
import hashlib
import importlib.metadata
import platform
import sysconfig
from pathlib import Path

FOLDER = Path(__file__).parent
SOURCES = (FOLDER / "matvec.cc", FOLDER / "attend.cc", FOLDER / "norm.cc", FOLDER / "read.cc")
HEADERS = (FOLDER / "ahead.h", FOLDER / "dot.h", FOLDER / "parallel.h")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-pthread", "-fPIC", "-shared", "-fno-math-errno")


@functools.cache
def library() -> Path:
    """Where the library for this machine, jaxlib and source lies, or would lie."""
    parts = [
        *(path.read_bytes() for path in SOURCES + HEADERS),
        " ".join(FLAGS).encode(),
        importlib.metadata.version("jaxlib").encode(),
        _processor().encode(),
    ]
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    suffix = sysconfig.get_config_var("SHLIB_SUFFIX") or ".so"
    return FOLDER / "_build" / f"products-{digest}{suffix}"


def _processor() -> str:
    """The processor's features, as far as the system tells them."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return f"{platform.machine()} {platform.processor()}"
    lines = info.read_text().splitlines()
    keys = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.split("\t")[0] in keys}))
