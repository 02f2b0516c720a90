"""The catalogue's chips: data in emu/catalogue/, one TOML file for each vendor, read once."""

import functools
from importlib import resources

from emu.chip_file import parse_chips
from emu.chips import Chip
from emu.fitted import fitted, for_chip


@functools.cache
def catalogue() -> tuple[Chip, ...]:
    """All chips of emu/catalogue/, by vendor and year."""
    found: list[Chip] = []
    files = [f for f in resources.files("emu.catalogue").iterdir() if f.name.endswith(".toml")]
    for file in sorted(files, key=lambda file: file.name):
        found += parse_chips(file.read_text(encoding="utf-8"), f"emu/catalogue/{file.name}")
    return tuple(for_chip(chip, fitted()) for chip in found)
