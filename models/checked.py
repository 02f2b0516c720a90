"""Whether a file on disk is the file that was published: its size and SHA-256.

A file is hashed each time it is asked for where that takes a moment (up to 128 MB: 0.06 to 0.25 s).
A larger one is hashed once and remembered beside it with its size, inode and times; the time of
change (ctime) is the kernel's own and moves with any write, so an altered file is hashed again.
"""

import hashlib
import json
import os
from pathlib import Path

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
        if size_bytes > _ALWAYS_HASHED_BYTES and _is_remembered(path, sha256):
            return
        found = sha256_of(path)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    if found != sha256:
        raise ModelError(f"{path}: altered: its SHA-256 is {found}, not {sha256}; {remedy}")
    if size_bytes > _ALWAYS_HASHED_BYTES:
        _remember(path, sha256)


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


def _memory_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256.json")


def _fingerprint(path: Path) -> dict[str, int]:
    stat = path.stat()
    return {
        "size_bytes": stat.st_size,
        "inode": stat.st_ino,
        "mtime_ns": stat.st_mtime_ns,
        "ctime_ns": stat.st_ctime_ns,
    }


def _is_remembered(path: Path, sha256: str) -> bool:
    try:
        remembered = json.loads(_memory_of(path).read_text())
    except (OSError, ValueError):
        return False  # nothing to go by, so the file is hashed
    return bool(remembered == {**_fingerprint(path), "sha256": sha256})


def _remember(path: Path, sha256: str) -> None:
    memory = _memory_of(path)
    written = memory.with_name(f"{memory.name}.{os.getpid()}")
    try:
        written.write_text(json.dumps({**_fingerprint(path), "sha256": sha256}))
        written.replace(memory)
    except OSError:
        # A cache that only others may write to: the file is simply hashed again next time.
        written.unlink(missing_ok=True)
