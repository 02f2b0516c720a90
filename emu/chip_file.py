"""Reading chips from TOML: the catalogue's files and a user's own have one format.

A file has a `vendor`, a table of `[sources]`, and a `[[chip]]` for each chip, with its
`[[chip.memory]]`s, `[chip.peak_flops_per_s]` by dtype and `[[chip.link]]`s. Each number is a table
`{ value = 80e9, source = "datasheet-2022", kind = "vendor" }`, in SI units, where `source` is a key
of `[sources]` or says itself where the number is from; `low` and `high` give the range it may lie
in, and `note` says more. emu/catalogue/README.md has a whole file to copy.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from emu.chip_units import check_chip
from emu.chips import Chip, Kind, Link, Memory, Sourced
from emu.errors import EmuError
from emu.rules import nearest

SCHEMA = 1
_FILE = ("schema", "vendor", "sources", "chip")
_CHIP_NUMBERS = ("weight_entry_bytes_per_s", "power_w", "price_usd", "price_usd_per_hour")
_CHIP_PARTS = ("memory", "peak_flops_per_s", "link")
_CHIP = ("name", "aliases", "year", "note", "cores", *_CHIP_PARTS, *_CHIP_NUMBERS)
_MEMORY_NUMBERS = ("capacity_bytes", "bandwidth_bytes_per_s", "latency_s")
_MEMORY = ("name", "placement", *_MEMORY_NUMBERS, "achieved_share")
_LINK_NUMBERS = ("bandwidth_bytes_per_s", "latency_s")
_LINK_WORDS = ("scope", "topology", "ports", "nodes")
_LINK = ("name", *_LINK_WORDS, *_LINK_NUMBERS, "small_allreduce_s")
_NUMBER = ("value", "source", "kind", "low", "high", "note")


def load_chip(path: str | Path, name: str | None = None) -> Chip:
    """The chip that a TOML file describes.

    Args:
      path: the file; its format is that of the catalogue's own files.
      name: which chip, where the file has several.

    Raises:
      EmuError: the file cannot be read, or something in it is wrong; the message says where.
    """
    chips = {chip.name: chip for chip in load_chips(path)}
    if name is None and len(chips) == 1:
        return next(iter(chips.values()))
    if name is None:
        raise EmuError(f"{path} has {len(chips)} chips: give the name of one, {', '.join(chips)}")
    if name not in chips:
        raise EmuError(f"{path} has no chip {name!r}{nearest(name, chips)}")
    return chips[name]


def load_chips(path: str | Path) -> tuple[Chip, ...]:
    """All chips that a TOML file describes. Raises EmuError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EmuError(f"{path} cannot be read: {error}") from error
    return parse_chips(text, str(path))


def parse_chips(text: str, origin: str) -> tuple[Chip, ...]:
    """The chips of a file's text; `origin` names the file in messages. Raises EmuError."""
    try:
        file = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise EmuError(f"{origin} is not TOML: {error}") from error
    try:
        return _file(file)
    except EmuError as error:
        raise EmuError(f"{origin}: {error}") from error


def _file(file: Mapping[str, Any]) -> tuple[Chip, ...]:
    _only_keys(file, _FILE, "the file")
    if "schema" not in file:
        raise EmuError(f"schema is missing: begin the file with `schema = {SCHEMA}`")
    schema = _needed(file, "schema", int, "the file")
    if schema != SCHEMA:
        raise EmuError(f"schema {schema} is not known: this emu reads schema {SCHEMA}")
    vendor = _needed(file, "vendor", str, "the file")
    sources = file.get("sources", {})
    if not isinstance(sources, dict) or not all(isinstance(s, str) for s in sources.values()):
        raise EmuError("[sources] must be a table of texts, each saying where numbers are from")
    chips = tuple(_chip(chip, vendor, sources) for chip in _tables(file, "chip", "the file"))
    if not chips:
        raise EmuError("the file describes no chip: it needs a [[chip]]")
    names = [name for chip in chips for name in (chip.name, *chip.aliases)]
    for name in names:
        if names.count(name) > 1:
            raise EmuError(f"two chips have the name {name!r}")
    return chips


def _chip(given: Mapping[str, Any], vendor: str, sources: Mapping[str, str]) -> Chip:
    name = _needed(given, "name", str, "a [[chip]]")
    where = f"chip {name!r}"
    _only_keys(given, _CHIP, where)
    aliases = given.get("aliases", [])
    if not isinstance(aliases, list) or not all(isinstance(alias, str) for alias in aliases):
        raise EmuError(f"{where}: aliases must be a list of names")
    year = None if "year" not in given else _needed(given, "year", int, where)
    peaks = given.get("peak_flops_per_s", {})
    if not isinstance(peaks, dict):
        raise EmuError(f"{where}: peak_flops_per_s must be a table by dtype")
    return check_chip(
        Chip(
            name=name,
            vendor=vendor,
            year=year,
            aliases=tuple(aliases),
            note=str(given.get("note", "")),
            cores=_cores(given, where, sources),
            memories=tuple(
                _memory(memory, where, sources) for memory in _tables(given, "memory", where)
            ),
            peak_flops_per_s={
                dtype: _number(peak, f"{where}, peak_flops_per_s.{dtype}", sources)
                for dtype, peak in peaks.items()
            },
            links=tuple(_link(link, where, sources) for link in _tables(given, "link", where)),
            **_numbers(given, _CHIP_NUMBERS, where, sources),
        )
    )


def _cores(given: Mapping[str, Any], where: str, sources: Mapping[str, str]) -> int:
    """Devices that a chip is to software, as a whole number; 1 where nothing is said."""
    if "cores" not in given:
        return 1
    cores = _number(given["cores"], f"{where}, cores", sources).value
    if not cores.is_integer():  # nor is infinity
        raise EmuError(f"{where}: cores must be a whole number of at least 1, not {cores}")
    return int(cores)


def _memory(given: Mapping[str, Any], chip: str, sources: Mapping[str, str]) -> Memory:
    name = _needed(given, "name", str, f"{chip}, a [[chip.memory]]")
    where = f"{chip}, memory {name!r}"
    _only_keys(given, _MEMORY, where)
    for field in _MEMORY_NUMBERS:
        _needed(given, field, object, where)
    return Memory(
        name=name,
        placement=_needed(given, "placement", str, where),
        **_numbers(given, (*_MEMORY_NUMBERS, "achieved_share"), where, sources),
    )


def _link(given: Mapping[str, Any], chip: str, sources: Mapping[str, str]) -> Link:
    name = _needed(given, "name", str, f"{chip}, a [[chip.link]]")
    where = f"{chip}, link {name!r}"
    _only_keys(given, _LINK, where)
    reduces = given.get("small_allreduce_s", {})
    if not isinstance(reduces, dict) or not all(chips.isdecimal() for chips in reduces):
        raise EmuError(f"{where}: small_allreduce_s must be a table by the number of chips")
    for field in _LINK_NUMBERS:
        _needed(given, field, object, where)
    return Link(
        name=name,
        **{word: given[word] for word in _LINK_WORDS if word in given},
        **_numbers(given, _LINK_NUMBERS, where, sources),
        small_allreduce_s={
            int(chips): _number(number, f"{where}, small_allreduce_s.{chips}", sources)
            for chips, number in reduces.items()
        },
    )


def _numbers(
    given: Mapping[str, Any], fields: Iterable[str], where: str, sources: Mapping[str, str]
) -> dict[str, Any]:
    """Those of the fields that are given."""
    return {f: _number(given[f], f"{where}, {f}", sources) for f in fields if f in given}


def _number(given: Any, where: str, sources: Mapping[str, str]) -> Sourced:
    if not isinstance(given, dict):
        raise EmuError(
            f"{where} must say where it is from: {{ value = {given}, source = '…', kind = "
            f"'vendor' }}, where kind is one of {', '.join(get_args(Kind))}"
        )
    _only_keys(given, _NUMBER, where)
    source = _source(_needed(given, "source", str, where), where, sources)
    kind = _needed(given, "kind", str, where)
    for field in ("value", "low", "high"):
        number = given.get(field, 0.0)
        if field == "value":
            _needed(given, field, object, where)
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise EmuError(f"{where}: {field} must be a number in SI units, not {number!r}")
    try:
        return Sourced(
            # Floats: all leaves of a system must be numbers that jax.grad can vary.
            **{f: float(given[f]) for f in ("value", "low", "high") if f in given},
            source=f"{source} ({given['note']})" if given.get("note") else source,
            kind=kind,
        )
    except EmuError as error:
        raise EmuError(f"{where}: {error}") from error


def _source(source: str, where: str, sources: Mapping[str, str]) -> str:
    if source in sources:
        return sources[source]
    if re.fullmatch(r"[\w-]*", source):  # one word says too little to be a source itself
        raise EmuError(
            f"{where}: source {source!r} is not in [sources]{nearest(source, sources)}; or write "
            "the document's title or address"
        )
    return source


def _only_keys(given: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    for key in given:
        if key not in known:
            raise EmuError(f"{where}: unknown key {key!r}{nearest(key, known)}")


def _needed(given: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    if key not in given:
        raise EmuError(f"{where}: {key} is missing")
    value = given[key]
    if not isinstance(value, kind) or (kind is not object and isinstance(value, bool)):
        raise EmuError(f"{where}: {key} must be {kind.__name__}, not {value!r}")
    return value


def _tables(given: Mapping[str, Any], key: str, where: str) -> list[Mapping[str, Any]]:
    tables = given.get(key, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise EmuError(
            f"{where}: {key} must be written as [[{'' if key == 'chip' else 'chip.'}{key}]]"
        )
    return tables
