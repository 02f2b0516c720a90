"""The SHA-256 of files on disk, and whether a file is the one that was published.

A file is hashed each time it is asked for where that takes a moment (up to 128 MB: 0.06 to 0.25 s).
A larger one is hashed once, and its hash is remembered with its size, inode and times; the time of
change (ctime) is the kernel's own and moves with any write, so an altered file is hashed again.
"""

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import tqdm

from models.errors import ModelError

_ALWAYS_HASHED_BYTES = 128_000_000
_READ_BYTES = 2**20


def check_file(path: Path, size_bytes: int, sha256: str, remedy: str) -> None:
    """Raises ModelError, ending with `remedy`, unless the file has this size and SHA-256."""
    try:
        found_bytes = path.stat().st_size
        if found_bytes != size_bytes:
            raise ModelError(f"{path}: has {found_bytes} bytes instead of {size_bytes}; {remedy}")
        found = known_sha256(path, path.with_name(f"{path.name}.sha256.json"))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    if found != sha256:
        raise ModelError(f"{path}: altered: its SHA-256 is {found}, not {sha256}; {remedy}")


def known_sha256(path: Path, memory: Path) -> str:
    """The SHA-256 of a file, which for a large one is remembered in the file `memory`.

    Raises OSError where the file cannot be read; a memory that cannot be used only costs time.
    """
    stat = path.stat()
    identity = {
        "size_bytes": stat.st_size,
        "inode": stat.st_ino,
        "mtime_ns": stat.st_mtime_ns,
        "ctime_ns": stat.st_ctime_ns,
    }
    if stat.st_size <= _ALWAYS_HASHED_BYTES:
        return sha256_of(path)
    remembered = _remembered(memory)
    found = str(remembered.pop("sha256", ""))
    if found and remembered == identity:
        return found
    found = sha256_of(path)
    _remember(memory, {**identity, "sha256": found})
    return found


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file as 64 hexadecimal digits; a progress bar after a second."""
    digest = hashlib.sha256()
    with (
        path.open("rb") as file,
        tqdm.tqdm(
            desc=f"checking {path.name}",
            total=path.stat().st_size,
            unit="B",
            unit_scale=True,
            delay=1.0,
            disable=None,
            leave=False,
        ) as bar,
    ):
        while data := file.read(_READ_BYTES):
            digest.update(data)
            bar.update(len(data))
    return digest.hexdigest()


def _remembered(memory: Path) -> dict[str, Any]:
    try:
        found = json.loads(memory.read_text())
    except (OSError, ValueError):
        return {}  # nothing to go by, so the file is hashed
    return found if isinstance(found, dict) else {}


def _remember(memory: Path, what: dict[str, Any]) -> None:
    written = memory.with_name(f"{memory.name}.{os.getpid()}")
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        written.write_text(json.dumps(what))
        written.replace(memory)
    except OSError:
        # A folder that only others may write to: the file is simply hashed again next time.
        with contextlib.suppress(OSError):
            written.unlink(missing_ok=True)
