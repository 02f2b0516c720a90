"""Finding a chip by its name: the catalogue's, this machine, or a file of one's own."""

import functools
import os

from emu.catalogued import catalogue
from emu.chip_file import load_chip
from emu.chips import Chip
from emu.errors import EmuError
from emu.host import host
from emu.rules import nearest

HOST = "host"


def chip(name: str) -> Chip:
    """The chip of this name.

    Args:
      name: one of `emu.chips()` or an alias ("h100-sxm"); "host", this machine, measured as
        `emu.host()` does; or the path of a TOML file, ending in `.toml`, that describes one chip.

    Raises:
      EmuError: there is no such chip; the message has the nearest name.
    """
    if name == HOST:
        return host()
    if name.endswith(".toml"):
        return load_chip(name)
    by_name = _by_name()
    found = by_name.get(name) or by_name.get(_folded(name))
    if found is None and os.sep in name:
        raise EmuError(f"{name!r} is no chip's name, and the path of a file must end in .toml")
    if found is None:
        raise EmuError(
            f"there is no chip {name!r}{nearest(_folded(name), (*by_name, HOST))} (emu.chips() "
            "lists them; emu.load_chip reads your own)"
        )
    return found


def chips() -> list[str]:
    """The names that `emu.chip` knows: the catalogue's by vendor and year, then "host"."""
    return [*(chip.name for chip in catalogue()), HOST]


@functools.cache
def _by_name() -> dict[str, Chip]:
    names: dict[str, Chip] = {}
    for chip in catalogue():
        for name in (chip.name, *chip.aliases):
            if name in names:
                raise EmuError(f"two chips of the catalogue have the name {name!r}")
            names[name] = chip
    return names


def _folded(name: str) -> str:
    """As the catalogue writes names: small letters, with hyphens."""
    return name.strip().lower().replace(" ", "-").replace("_", "-")
