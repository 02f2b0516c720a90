"""A folder of a bucket (`gs://…`, `s3://…`, `memory://…`), through fsspec.

Objects are written whole or not at all, which is what S3 and Google Cloud Storage promise of one
upload, and a name can be taken by one writer only (`create`). Listings are always asked anew.
Whatever goes wrong on the way is one line that names the place: `BucketError`.
"""

import contextlib
from collections.abc import Iterator

import fsspec

from experiments.errors import ExperimentError

SCHEMES = ("gs", "s3", "memory")


class BucketError(ExperimentError):
    """A bucket that cannot be reached, read or written."""


class Bucket:
    """Objects below one address.

    Raises `BucketError` from every method when the bucket cannot be reached or does not permit it.
    """

    def __init__(self, url: str) -> None:
        scheme, _, rest = url.partition("://")
        self.url = f"{scheme}://{rest.strip('/')}"
        if scheme not in SCHEMES:
            known = ", ".join(f"{name}://" for name in SCHEMES)
            raise BucketError(f"workdir {url}: {scheme}:// is not known: there are {known}")
        if not rest.strip("/"):
            raise BucketError(f"workdir {url} names no bucket: write {scheme}://BUCKET/FOLDER")
        with self._told("opened"):
            try:
                self._files, self._root = fsspec.url_to_fs(self.url, use_listings_cache=False)
            except ImportError as error:
                raise BucketError(
                    f"{scheme}:// needs packages that are not installed: pip install 'emu[cloud]'"
                ) from error

    def put(self, name: str, data: bytes) -> str:
        """Write an object, over an earlier one too; returns its address."""
        with self._told("written to"):
            self._files.pipe_file(self._path(name), data)
        return f"{self.url}/{name}"

    def create(self, name: str, data: bytes) -> bool:
        """Write an object if there is none of that name; whether it was written."""
        with self._told("written to"):
            try:
                self._files.pipe_file(self._path(name), data, mode="create")
            except FileExistsError:
                return False
        return True

    def read(self, names: list[str]) -> dict[str, bytes]:
        """The objects that are there, by name."""
        if not names:
            return {}
        with self._told("read"):
            found = self._files.cat([self._path(name) for name in names], on_error="return")
            data = {path.lstrip("/").rpartition("/")[2]: what for path, what in found.items()}
            contents = {}
            for name in names:
                content = data[name.rpartition("/")[2]]
                if isinstance(content, FileNotFoundError):
                    continue
                if isinstance(content, BaseException):
                    raise content
                contents[name] = content
        return contents

    def names(self, folder: str) -> list[str]:
        """The objects of a folder, sorted, each as `folder/…`; empty where there is none."""
        with self._told("read"):
            try:
                found = self._files.ls(self._path(folder), detail=False, refresh=True)
            except FileNotFoundError:
                return []
        return sorted(f"{folder}/{path.rstrip('/').rpartition('/')[2]}" for path in found)

    def remove(self, names: list[str]) -> None:
        """Delete objects."""
        if names:
            with self._told("written to"):
                self._files.rm([self._path(name) for name in names])

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextlib.contextmanager
    def _told(self, done: str) -> Iterator[None]:
        try:
            yield
        except BucketError:
            raise
        # Each cloud's client has errors of its own, and most of them are the user's to put right.
        except Exception as error:
            # gcsfs tells of a status 403 by a plain OSError.
            if isinstance(error, PermissionError) or str(error).startswith("Forbidden"):
                raise BucketError(
                    f"workdir {self.url} cannot be {done}: these credentials have no permission "
                    f"for it ({_line(error)})"
                ) from error
            raise BucketError(
                f"workdir {self.url} cannot be {done}: {type(error).__name__}: {_line(error)}"
            ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
