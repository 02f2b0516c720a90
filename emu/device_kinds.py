"""The catalogue's chip behind a device of JAX's: what the runtime does not tell is read there."""

import functools
import tomllib
from importlib import resources

from emu.catalogued import catalogue
from emu.chips import Chip, Memory


@functools.cache
def kinds() -> dict[str, str]:
    """The catalogue's names by JAX's `device_kind`."""
    text = (resources.files("emu") / "device_kinds.toml").read_text(encoding="utf-8")
    found: dict[str, str] = tomllib.loads(text)["kinds"]
    return found


def chip_of(device_kind: str) -> Chip | None:
    """The chip of this `device_kind`; None where the catalogue has none."""
    name = kinds().get(device_kind)
    return next((chip for chip in catalogue() if chip.name == name), None)


def memory_of(device_kind: str, placement: str) -> Memory | None:
    """Its on-chip memory, or the one off chip that is its own: the first that is listed."""
    chip = chip_of(device_kind)
    memories = () if chip is None else chip.memories
    return next((memory for memory in memories if memory.placement == placement), None)
