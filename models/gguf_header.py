"""A GGUF file's header: its metadata and where each tensor lies, read with strict bounds.

The `gguf` package's own reader trusts the counts, lengths and offsets in the file, so that a
damaged one can make it hang or fill the memory. Here every number is checked against what is left
of the file before anything is read by it, so work and memory are in proportion to the header.
The layout is that of the GGUF specification (ggml-org/ggml, docs/gguf.md), versions 2 and 3:

    "GGUF", version u32, tensor count u64, key count u64,
    keys:    name string, type u32, value
    tensors: name string, dimensions u32, each u64 (fastest first), type u32, offset u64
    padding to the alignment, then the tensors' data, each at its offset from here
"""

import dataclasses
import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

import gguf
import numpy as np

from models.errors import ModelError

_READABLE_VERSIONS = (2, 3)
_MAX_KEY_BYTES = 2**16 - 1  # the specification's limit
_MAX_TENSOR_NAME_BYTES = 256  # ggml's own limit is 64
_MAX_DIMENSIONS = 4
_MAX_ALIGNMENT = 2**20
# The fewest bytes that one key (empty name, one-byte value) or one tensor takes in a header.
_MIN_KEY_BYTES = 8 + 4 + 1
_MIN_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8

_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "u1"}
_SCALARS |= {10: "<u8", 11: "<i8", 12: "<f8"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """One tensor: shape slowest axis first, and the bytes that it takes in the file."""

    name: str
    shape: tuple[int, ...]
    type: gguf.GGMLQuantizationType
    start_bytes: int
    size_bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class GgufHeader:
    """What a GGUF file says of itself: metadata by key, tensors by name in file order."""

    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]


def read_header(path: Path) -> GgufHeader:
    """Reads and checks the header of a GGUF file.

    Raises ModelError, in one line, for a file that is not GGUF, is cut short, or says of itself
    what cannot be so. Tensor types that the `gguf` package does not know are refused by number.
    """
    try:
        with path.open("rb") as file:
            size_bytes = path.stat().st_size
            return _Reader(file, path, size_bytes).header()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error


class _Reader:
    """A cursor over the header that never reads past the end of the file."""

    def __init__(self, file: BinaryIO, path: Path, size_bytes: int) -> None:
        self._file = file
        self._path = path
        self._size_bytes = size_bytes
        self._position = 0

    def header(self) -> GgufHeader:
        if self._size_bytes < 4 or self._take(4, "the magic number") != b"GGUF":
            raise self._error("not a GGUF file (it does not start with 'GGUF')")
        version = self._unsigned(4, "the version")
        if version not in _READABLE_VERSIONS:
            order = " (a big-endian file)" if version and version % 2**16 == 0 else ""
            raise self._error(f"GGUF version {version}{order} is not supported, 2 and 3 are")
        tensor_count = self._unsigned(8, "the tensor count")
        key_count = self._unsigned(8, "the key count")
        self._must_fit(key_count, _MIN_KEY_BYTES, "keys")
        metadata: dict[str, Any] = {}
        for _ in range(key_count):
            key = self._string("a key's name", _MAX_KEY_BYTES)
            if not (key.isascii() and key.isprintable()):
                raise self._error(f"a key's name is not printable ASCII: {key!r}")
            if key in metadata:
                raise self._error(f"key {key!r} is there twice")
            metadata[key] = self._value(key)
        self._must_fit(tensor_count, _MIN_TENSOR_BYTES, "tensors")
        described = [self._tensor() for _ in range(tensor_count)]
        return GgufHeader(
            metadata=metadata, tensors=self._placed(described, self._alignment(metadata))
        )

    def _value(self, key: str) -> Any:
        type_code = self._unsigned(4, f"the type of {key!r}")
        if type_code == _STRING:
            return self._string(repr(key), self._size_bytes)
        if type_code != _ARRAY:
            scalar = self._scalars(type_code, 1, key)[0].item()
            return self._boolean(key, scalar) if type_code == _BOOL else scalar
        item_code = self._unsigned(4, f"the item type of {key!r}")
        count = self._unsigned(8, f"the length of {key!r}")
        if item_code == _STRING:
            self._must_fit(count, 8, f"strings in {key!r}")
            return [self._string(repr(key), self._size_bytes) for _ in range(count)]
        return self._scalars(item_code, count, key)

    def _scalars(self, type_code: int, count: int, key: str) -> np.ndarray:
        if type_code not in _SCALARS:
            raise self._error(f"{key!r} has the unknown value type {type_code}")
        dtype = np.dtype(_SCALARS[type_code])
        self._must_fit(count, dtype.itemsize, f"values in {key!r}")
        return np.frombuffer(self._take(count * dtype.itemsize, repr(key)), dtype)

    def _boolean(self, key: str, value: int) -> bool:
        if value not in (0, 1):
            raise self._error(f"{key!r} must be 0 or 1, not {value}")
        return bool(value)

    def _tensor(self) -> tuple[str, tuple[int, ...], gguf.GGMLQuantizationType, int]:
        name = self._string("a tensor's name", _MAX_TENSOR_NAME_BYTES)
        dimensions = self._unsigned(4, f"the dimensions of {name!r}")
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            raise self._error(f"tensor {name!r} has {dimensions} dimensions")
        shape = [self._unsigned(8, f"the shape of {name!r}") for _ in range(dimensions)]
        type_code = self._unsigned(4, f"the type of {name!r}")
        try:
            tensor_type = gguf.GGMLQuantizationType(type_code)
        except ValueError:
            raise self._error(f"tensor {name!r} has the unknown type {type_code}") from None
        return name, tuple(reversed(shape)), tensor_type, self._unsigned(8, f"{name!r}'s offset")

    def _alignment(self, metadata: dict[str, Any]) -> int:
        alignment = metadata.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
        in_range = type(alignment) is int and 0 < alignment <= _MAX_ALIGNMENT
        if not in_range or alignment.bit_count() != 1:
            raise self._error(f"general.alignment must be a power of two, not {alignment!r}")
        return int(alignment)

    def _placed(
        self,
        described: list[tuple[str, tuple[int, ...], gguf.GGMLQuantizationType, int]],
        alignment: int,
    ) -> dict[str, TensorInfo]:
        data_start = _rounded_up(self._position, alignment)
        expected_offset = 0
        tensors: dict[str, TensorInfo] = {}
        for name, shape, tensor_type, offset in described:
            if name in tensors:
                raise self._error(f"tensor {name!r} is there twice")
            size_bytes = self._size_of(name, shape, tensor_type)
            # Writers lay tensors one after the other, and ggml refuses files where they do not.
            if offset != expected_offset:
                raise self._error(f"tensor {name!r} is at offset {offset}, not {expected_offset}")
            if data_start + offset + size_bytes > self._size_bytes:
                raise self._error(
                    f"cut short: tensor {name!r} ends at byte {data_start + offset + size_bytes}, "
                    f"the file at {self._size_bytes}; get it anew"
                )
            tensors[name] = TensorInfo(
                name=name,
                shape=shape,
                type=tensor_type,
                start_bytes=data_start + offset,
                size_bytes=size_bytes,
            )
            expected_offset = _rounded_up(offset + size_bytes, alignment)
        if self._size_bytes > data_start + expected_offset:
            surplus_bytes = self._size_bytes - data_start - expected_offset
            raise self._error(f"has {surplus_bytes} bytes behind its last tensor; get it anew")
        return tensors

    def _size_of(
        self, name: str, shape: tuple[int, ...], tensor_type: gguf.GGMLQuantizationType
    ) -> int:
        block_values, block_bytes = gguf.GGML_QUANT_SIZES[tensor_type]
        if min(shape) < 1 or shape[-1] % block_values:
            raise self._error(
                f"tensor {name!r} has shape {list(shape)}, which {tensor_type.name} cannot hold"
            )
        return math.prod(shape) // int(block_values) * int(block_bytes)

    def _string(self, what: str, max_bytes: int) -> str:
        length = self._unsigned(8, f"the length of {what}")
        if length > max_bytes:
            raise self._error(f"{what} is {length} bytes long, more than {max_bytes}")
        try:
            return self._take(length, what).decode()
        except UnicodeDecodeError:
            raise self._error(f"{what} is not UTF-8") from None

    def _unsigned(self, size_bytes: int, what: str) -> int:
        data = self._take(size_bytes, what)
        return int(struct.unpack("<I" if size_bytes == 4 else "<Q", data)[0])

    def _must_fit(self, count: int, each_bytes: int, what: str) -> None:
        if count * each_bytes > self._size_bytes - self._position:
            raise self._error(f"{count} {what} cannot fit into a file of {self._size_bytes} bytes")

    def _take(self, size_bytes: int, what: str) -> bytes:
        if size_bytes > self._size_bytes - self._position:
            raise self._error(f"cut short at {what}; get it anew")
        data = self._file.read(size_bytes)
        if len(data) != size_bytes:
            raise self._error(f"changed while it was read, at {what}")
        self._position += size_bytes
        return data

    def _error(self, message: str) -> ModelError:
        return ModelError(f"{self._path}: {message}")


def _rounded_up(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment
