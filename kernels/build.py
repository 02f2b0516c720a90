"""Compile the native products for this machine: `python -m kernels.build [STAMP]`.

STAMP is a file to touch when they are there, for make: where they could not be built it is left
alone, so that the next `make` tries again.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax

from kernels.library import FLAGS, SOURCES, library


class BuildError(RuntimeError):
    """The native products could not be compiled."""


def compiler() -> str | None:
    """The C++ compiler: $CXX, else g++, clang++ or c++, whichever is there first."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]
    return next((path for name in names if (path := shutil.which(name))), None)


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
            lines = done.stderr.strip().splitlines() or ["no message"]
            first = next((line for line in lines if "error" in line), lines[0])
            raise BuildError(f"{cxx} failed: {first}")
        os.replace(made, target)
    return target


def main(arguments: Sequence[str]) -> int:
    """Build and say what happened; without a compiler everything still works, slower."""
    try:
        print(f"kernels: native products in {build()}")
        for stamp in arguments:
            Path(stamp).touch()
    except BuildError as error:
        print(
            f"kernels: native products not built: {error}; "
            "plain JAX products are used instead (correct, but slower in bfloat16 and int8)",
            file=sys.stderr,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
