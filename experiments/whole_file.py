"""Files that are written whole or not at all."""

import errno
import os
from pathlib import Path


def write_whole(path: Path, data: bytes) -> Path:
    """Write beside `path`, then put it in its place; a reader never sees a part. Returns it.

    Folders are made where they are missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(data)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def check_writable(path: Path) -> None:
    """Raises OSError where `write_whole` could not write, before what is to be written is made."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.touch()
        aside.unlink()
    except OSError as error:  # of the file that was asked for, not of the one beside it
        raise OSError(error.errno, error.strerror, str(path)) from error
