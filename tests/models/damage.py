"""Damages a GGUF file field by field: where each field of its header lies, and what to put there.

The walk over the header is the test's own, so that it does not share a mistake with the loader.
"""

import dataclasses
import random
import struct

import numpy as np

SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY, FLOAT32 = 8, 9, 6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Field:
    """One field: its place in the file, and what it is: count, text, float or value."""

    name: str
    kind: str
    start: int
    size: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """The fields of a file, the bytes of each key and tensor entry, and where the data starts."""

    fields: list[Field]
    keys: list[tuple[int, int]]
    tensors: list[tuple[int, int]]
    header_end: int


class _Walk:
    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.fields = data, 0, []

    def number(self, name: str, size: int, kind: str = "count") -> int:
        self.fields.append(Field(name=name, kind=kind, start=self.at, size=size))
        value = int.from_bytes(self.data[self.at : self.at + size], "little")
        self.at += size
        return value

    def text(self, name: str) -> None:
        length = self.number(f"{name} length", 8)
        self.fields.append(Field(name=f"{name} text", kind="text", start=self.at, size=length))
        self.at += length

    def value(self, name: str, code: int, index: str = "") -> None:
        if code == STRING:
            self.text(f"{name}{index}")
        elif code == ARRAY:
            item = self.number(f"{name} item type", 4)
            for i in range(self.number(f"{name} array length", 8)):
                self.value(name, item, f"[{i}]")
        else:
            kind = "float" if code == FLOAT32 else "value"
            self.number(f"{name}{index} value", SCALAR_BYTES[code], kind)


def layout_of(data: bytes) -> Layout:
    walk = _Walk(data)
    walk.number("magic", 4)
    walk.number("version", 4)
    tensor_count = walk.number("tensor count", 8)
    keys, tensors = [], []
    for number in range(walk.number("key count", 8)):
        start = walk.at
        walk.text(f"key {number}")
        walk.value(f"key {number}", walk.number(f"key {number} type", 4))
        keys.append((start, walk.at))
    for number in range(tensor_count):
        start = walk.at
        walk.text(f"tensor {number}")
        for axis in range(walk.number(f"tensor {number} dimensions", 4)):
            walk.number(f"tensor {number} axis {axis}", 8)
        walk.number(f"tensor {number} type", 4)
        walk.number(f"tensor {number} offset", 8)
        tensors.append((start, walk.at))
    return Layout(fields=walk.fields, keys=keys, tensors=tensors, header_end=walk.at)


def damaged(data: bytes, seed: int = 0) -> list[tuple[str, bytes]]:
    """(what was done, the file's bytes): each field in several ways, entries, ends, and chance."""
    layout = layout_of(data)
    rng = random.Random(seed)
    cases = [*_structural(data, layout), *_truncated(data, layout)]
    for field in layout.fields:
        cases += _field_cases(data, field)
    cases += [_not_finite(data, layout, rng) for _ in range(50)]
    cases += [_random_bytes(data, layout, rng) for _ in range(500)]
    return cases


def _put(data: bytes, start: int, new: bytes) -> bytes:
    return data[:start] + new + data[start + len(new) :]


def _field_cases(data: bytes, field: Field) -> list[tuple[str, bytes]]:
    old = data[field.start : field.start + field.size]
    if field.kind == "text":
        if not old:
            return []
        news = [b"\xff" * len(old), b"\x00" * len(old), bytes([old[0] ^ 1]) + old[1:]]
    else:
        value, top = int.from_bytes(old, "little"), 256**field.size - 1
        news = [0, top, value + 1, value - 1, top // 2 + 1, value * 257 + 3, value ^ 2**16, 2**40]
        news = [(new & top).to_bytes(field.size, "little") for new in news]
        if field.kind == "float":
            news = [struct.pack("<f", new) for new in (np.nan, np.inf, -1.0, 0.0, 3e38)] + news
    # Without those that change nothing.
    return [
        (f"{field.name} := {new[:8].hex()}", _put(data, field.start, new))
        for new in dict.fromkeys(news)
        if new != old
    ]


def _structural(data: bytes, layout: Layout) -> list[tuple[str, bytes]]:
    cases = [("empty", b""), ("doubled", data + data), ("reversed", data[::-1])]
    # An entry twice or left out, with the count in the header (tensors at byte 8, keys at 16) kept
    # true and the data moved along to the next multiple of 32.
    for what, count_at, entries in (("key", 16, layout.keys), ("tensor", 8, layout.tensors)):
        for number, (start, end) in enumerate(entries):
            for change, entry in ((1, data[start:end] * 2), (-1, b"")):
                header = data[:start] + entry + data[end : layout.header_end]
                count = int.from_bytes(header[count_at : count_at + 8], "little") + change
                header = _put(header, count_at, count.to_bytes(8, "little"))
                body = data[-(-layout.header_end // 32) * 32 :]
                verb = "twice" if change == 1 else "left out"
                cases.append((f"{what} {number} {verb}", header + bytes(-len(header) % 32) + body))
    return cases


def _truncated(data: bytes, layout: Layout) -> list[tuple[str, bytes]]:
    within = range(1, layout.header_end, max(1, layout.header_end // 60))
    beyond = range(layout.header_end, len(data), max(1, (len(data) - layout.header_end) // 20))
    return [(f"cut at {end}", data[:end]) for end in (*within, *beyond, len(data) - 1)]


def _not_finite(data: bytes, layout: Layout, rng: random.Random) -> tuple[str, bytes]:
    place = rng.randrange(-(-layout.header_end // 32) * 32, len(data) - 4, 4)
    new = rng.choice([np.nan, np.inf, -np.inf])
    return f"{new} at {place}", _put(data, place, struct.pack("<f", new))


def _random_bytes(data: bytes, layout: Layout, rng: random.Random) -> tuple[str, bytes]:
    places = [rng.randrange(layout.header_end) for _ in range(rng.randint(1, 8))]
    for place in places:
        data = _put(data, place, bytes([rng.randrange(256)]))
    return f"random bytes at {places}", data
