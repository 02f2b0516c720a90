"""Keeping what was measured of a machine: one small JSON file for each machine and set-up.

It lies in emu/ in $XDG_CACHE_HOME, or else in ~/.cache, is written whole or not at all, and is
only believed where its schema and its machine are the ones asked for.
"""

import dataclasses
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from emu.chips import Chip, Curve, Link, Memory, Sourced
from emu.errors import EmuError
from emu.machine import Machine
from emu.probe import Probed

SCHEMA = 3  # one more whenever what is measured, or how, changes


def folder() -> Path:
    """Where the files lie."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))  # relative ones are to be ignored
    return (named if named.is_absolute() else Path.home() / ".cache") / "emu"


def path_of(machine: Machine) -> Path:
    """The file of this machine."""
    described = json.dumps(dataclasses.asdict(machine), sort_keys=True)
    return folder() / f"host-{hashlib.sha256(described.encode()).hexdigest()[:12]}.json"


def read(machine: Machine) -> Probed | None:
    """What was measured; None where nothing is kept.

    Raises EmuError where the file is there and cannot be used.
    """
    path = path_of(machine)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise EmuError(f"{path} cannot be read: {error}") from error
    try:
        kept = json.loads(text)
        if kept["schema"] != SCHEMA or kept["machine"] != dataclasses.asdict(machine):
            raise EmuError(f"{path} is of another version or machine")
        return Probed(
            chip=_chip(kept["chip"]),
            per_step_s=Sourced(**kept["per_step_s"]),
            per_kernel_s=Sourced(**kept["per_kernel_s"]),
            disturbed_share=float(kept["disturbed_share"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, EmuError) and str(path) in str(error):
            raise
        raise EmuError(f"{path} is damaged ({type(error).__name__}: {error})") from error


def write(machine: Machine, probed: Probed) -> Path:
    """Keeps it. Raises EmuError where that fails; a half-written file never stays."""
    path = path_of(machine)
    kept = {
        "schema": SCHEMA,
        "machine": dataclasses.asdict(machine),
        **dataclasses.asdict(probed),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".part")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(kept, file, indent=1)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise EmuError(f"{path} cannot be written: {error}") from error
    return path


def _chip(kept: dict[str, Any]) -> Chip:
    return Chip(
        name=kept["name"],
        vendor=kept["vendor"],
        memories=tuple(_memory(memory) for memory in kept["memories"]),
        peak_flops_per_s={
            dtype: Sourced(**number) for dtype, number in kept["peak_flops_per_s"].items()
        },
        links=tuple(
            Link(
                name=link["name"],
                bandwidth_bytes_per_s=Sourced(**link["bandwidth_bytes_per_s"]),
                latency_s=Sourced(**link["latency_s"]),
            )
            for link in kept["links"]
        ),
    )


def _memory(kept: dict[str, Any]) -> Memory:
    curves = tuple(
        Curve(
            **{
                **curve,
                "read_bytes": tuple(curve["read_bytes"]),
                "bytes_per_s": tuple(curve["bytes_per_s"]),
            }
        )
        for curve in kept["curves"]
    )
    return Memory(
        name=kept["name"],
        placement=kept["placement"],
        capacity_bytes=Sourced(**kept["capacity_bytes"]),
        bandwidth_bytes_per_s=Sourced(**kept["bandwidth_bytes_per_s"]),
        latency_s=Sourced(**kept["latency_s"]),
        curves=curves,
        mechanism=kept["mechanism"],
    )
