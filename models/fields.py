"""Named values of a file's header, each read with the type that it must have.

A GGUF's metadata and a config.json are both a flat mapping that somebody else wrote. Each getter
either returns a value of the asked kind or raises `ModelError` with the file, the key and what was
found there, so that no loader meets a string where it expects a count.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from models.errors import ModelError

# No count or identifier in these files comes near this; it keeps products of damaged ones small.
_LARGEST_INTEGER = 2**31


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fields:
    """Values by key, and the name of the file that they came from, for messages."""

    values: Mapping[str, Any]
    source: str

    def has(self, key: str) -> bool:
        """Whether the key is there with a value; JSON's null counts as absent."""
        return self.values.get(key) is not None

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number from 0 to 2**31; without a default the key must be there."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong(key, value, "a whole number")
        if not 0 <= value <= _LARGEST_INTEGER:
            raise self._wrong(key, value, f"between 0 and {_LARGEST_INTEGER}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number; without a default the key must be there."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(key, value, "a number")
        if not math.isfinite(value):
            raise self._wrong(key, value, "a finite number")
        return float(value)

    def flag(self, key: str, default: bool | None = None) -> bool:
        """True or false; without a default the key must be there."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A string; without a default the key must be there."""
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self._wrong(key, value, "a string")
        return value

    def texts(self, key: str) -> list[str]:
        """A list of strings."""
        value = self._get(key, None)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._wrong(key, value, "a list of strings")
        return value

    def integers(self, key: str) -> list[int]:
        """A list of whole numbers."""
        value = self._get(key, None)
        if isinstance(value, np.ndarray) and value.dtype.kind in "iu":
            return [int(item) for item in value]
        if isinstance(value, list) and all(type(item) is int for item in value):
            return value
        raise self._wrong(key, value, "a list of whole numbers")

    def record(self, key: str) -> "Fields":
        """A nested mapping, as JSON has them; absent or null is an empty one."""
        value = self.values.get(key)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise self._wrong(key, value, "an object")
        return Fields(values=value, source=f"{self.source}: {key}")

    def _get(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        value = default if value is None else value
        if value is None:
            raise ModelError(f"{self.source}: {key} is missing")
        return value

    def _wrong(self, key: str, value: Any, wanted: str) -> ModelError:
        shown = repr(value)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        return ModelError(f"{self.source}: {key} must be {wanted}, not {shown}")
