"""Which weights these are: a fingerprint of all the bytes of a model's files.

A path says where weights lie, not which they are: another file may have taken the place. So results
name the SHA-256 of what was measured. Large files are hashed once (some 2 s for each GB) and their
hashes kept in the cache folder, for as long as size, inode and times stay (`models.checked`).
"""

import hashlib
from pathlib import Path

from models.checked import known_sha256
from models.errors import ModelError
from models.hub import WANTED_FILES
from models.named import cache_folder

_DIGITS = 16  # 64 bits: enough to tell files apart by accident, short enough to read


def fingerprint(path: Path) -> str:
    """16 hexadecimal digits, of a GGUF file or of a Hugging Face folder.

    A file's are the first of its SHA-256. A folder's are of the names and SHA-256 of its weights,
    configs and tokeniser's files, in order. Raises ModelError where one cannot be read.
    """
    try:
        if not path.is_dir():
            return _sha256(path)[:_DIGITS]
        files = sorted({file for pattern in WANTED_FILES for file in path.glob(pattern)})
        lines = [f"{_sha256(file)} {file.name}\n" for file in files if file.is_file()]
    except OSError as error:
        raise ModelError(
            f"{error.filename or path}: cannot be read: {error.strerror or error}"
        ) from error
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:_DIGITS]


def _sha256(path: Path) -> str:
    # Beside the file would be simpler, but a user's folder is not ours to write to.
    name = hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:_DIGITS]
    return known_sha256(path, cache_folder() / "sha256" / f"{name}.json")
