"""Numbers that nobody publishes and that were fitted to measurements, shared by what has them.

`emu/serving/fitted.toml` has one `[[number]]` for each: its value, the field that it is, and the
chips or stacks that have it. What belongs to a chip is shared by all stacks on it, and what belongs
to software by all chips under it, so that one measured on few says something of the others. A chip
gets its numbers when the catalogue is read (`kernel_s`; `hbm.achieved_share`, of the memory of that
name; `link.achieved_share`, of its link to other chips), a stack when its file is (`per_step_s`).
"""

import dataclasses
import functools
import tomllib
from importlib import resources
from typing import Any

from emu.chips import Chip, Sourced
from emu.errors import EmuError

_FILE = "fitted.toml"
_KEYS = {
    "name",
    "field",
    "chips",
    "stacks",
    "value",
    "low",
    "high",
    "kind",
    "source",
    "prior",
    "spread",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fitted:
    """One number and its owners."""

    name: str
    field: str
    number: Sourced
    prior: float  # what was taken to be plausible before fitting, and its logarithm's deviation
    spread: float
    chips: tuple[str, ...] = ()
    stacks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.chips) == bool(self.stacks):
            raise EmuError(f"{_FILE}: {self.name!r} is of chips or of stacks, one of the two")


def read(text: str) -> tuple[Fitted, ...]:
    """The numbers of a file; EmuError for what it should not have."""
    found = []
    for given in tomllib.loads(text).get("number", []):
        if not set(given) <= _KEYS or not {"name", "field", "value"} <= set(given):
            raise EmuError(f"{_FILE}: a number has {sorted(given)}; it may have {sorted(_KEYS)}")
        found.append(
            Fitted(
                name=given["name"],
                field=given["field"],
                prior=float(given.get("prior", given["value"])),
                spread=float(given.get("spread", 0.5)),
                chips=tuple(given.get("chips", ())),
                stacks=tuple(given.get("stacks", ())),
                number=Sourced(
                    **{f: float(given[f]) for f in ("value", "low", "high") if f in given},
                    source=given["source"],
                    kind=given["kind"],
                ),
            )
        )
    return tuple(found)


@functools.cache
def fitted() -> tuple[Fitted, ...]:
    """The committed numbers."""
    return read(resources.files("emu.serving").joinpath(_FILE).read_text(encoding="utf-8"))


def for_chip(chip: Chip, numbers: tuple[Fitted, ...]) -> Chip:
    """The chip with the numbers that are its."""
    for one in numbers:
        if chip.name in one.chips:
            chip = _with(chip, one)
    return chip


def for_stack(name: str, numbers: tuple[Fitted, ...]) -> dict[str, Any]:
    """The numbers of a stack, by field."""
    return {one.field: one.number for one in numbers if name in one.stacks}


def _with(chip: Chip, one: Fitted) -> Chip:
    owner, _, field = one.field.rpartition(".")
    new: dict[str, Any] = {field: one.number}
    if not owner:
        return dataclasses.replace(chip, **new)
    if owner == "link":
        links = tuple(
            dataclasses.replace(link, **new) if link.scope == "chips" else link
            for link in chip.links
        )
        return dataclasses.replace(chip, links=links)
    if owner not in [memory.name for memory in chip.memories]:
        raise EmuError(f"{_FILE}: {one.name!r}: {chip.name} has no memory {owner!r}")
    memories = tuple(
        dataclasses.replace(memory, **new) if memory.name == owner else memory
        for memory in chip.memories
    )
    return dataclasses.replace(chip, memories=memories)
