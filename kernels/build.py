"""Compile the native products for this machine: `python -m kernels.build`.

The library is named by a hash of all that went into it (source, compiler, flags, jaxlib, and the
processor's features, since it is compiled for this very processor), so a library that fits
another machine or another jaxlib is never loaded: it just isn't there, and the plain JAX products
are used.
"""

import functools
import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import jax

FOLDER = Path(__file__).parent
SOURCES = (FOLDER / "matvec.cc", FOLDER / "attend.cc")
HEADERS = (FOLDER / "dot.h", FOLDER / "parallel.h")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-shared", "-fno-math-errno")


class BuildError(RuntimeError):
    """The native products could not be compiled."""


def compiler() -> str | None:
    """The C++ compiler: $CXX, else g++, clang++ or c++, whichever is there first."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]
    return next((path for name in names if (path := shutil.which(name))), None)


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


def build() -> Path:
    """Compile, unless it is done already; a failure leaves nothing behind."""
    target = library()
    if target.exists():
        return target
    cxx = compiler()
    if cxx is None:
        raise BuildError("no C++ compiler found (set CXX, or install g++ or clang++)")
    target.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / target.name
        command = [
            cxx,
            *FLAGS,
            f"-isystem{jax.ffi.include_dir()}",
            *map(str, SOURCES),
            "-o",
            str(made),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BuildError(f"{cxx} failed: {done.stderr.strip().splitlines()[-1:]}")
        os.replace(made, target)
    return target


def _processor() -> str:
    """The processor's features, as far as the system tells them."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return f"{platform.machine()} {platform.processor()}"
    lines = info.read_text().splitlines()
    keys = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.split("\t")[0] in keys}))


def main() -> int:
    """Build and say what happened; without a compiler everything still works, slower."""
    try:
        print(f"kernels: native products in {build()}")
    except BuildError as error:
        print(
            f"kernels: native products not built: {error}; "
            "plain JAX products are used instead (correct, but slower in bfloat16 and int8)",
            file=sys.stderr,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
