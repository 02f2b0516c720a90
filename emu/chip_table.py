"""The catalogue as a page of Markdown: one table to compare chips, then every number's source.

The page is docs/chips.md; `python -m emu.catalogue > docs/chips.md` writes it, and a test holds the
committed page against the data.
"""

from collections.abc import Iterable, Sequence

from emu.chips import Chip, Link, Memory, Sourced

_HEAD = """# Chips

<!-- Written by `python -m emu.catalogue > docs/chips.md`: change emu/catalogue/ instead. -->

What `emu.chip(name)` knows, besides `host`, which is the machine at hand. The data is in
[emu/catalogue](../emu/catalogue/README.md), one file for each vendor. Peaks are dense, of whole
chips or of cards as they are sold; a link's bandwidth is that of one chip in one direction. A `~`
marks what is assumed: no source that we trust has it, so it has a range, below. *Memories* are
those in which weights can stay from one kernel to the next; what a core gives up when a kernel ends
(a GPU's L1 and shared memory) is told in the chip's note.

## Side by side
"""
_COMPARED = ("bfloat16", "float8", "float4", "int8", "int4", "float32")


def page(chips: Sequence[Chip]) -> str:
    """The whole page, ending in a newline."""
    parts = [_HEAD, _side_by_side(chips), "\n## Every number and its source\n"]
    return "\n".join([*parts, *(_details(chip) for chip in chips)])


def _side_by_side(chips: Iterable[Chip]) -> str:
    peaks = [f"{dtype}, TFLOP/s" for dtype in _COMPARED]
    head = ("chip", "vendor", "year", "on chip", "off chip", "weights enter at", *peaks)
    rows = [(*head, "between chips", "power", "price")]
    for chip in chips:
        placed = {
            place: "<br>".join(_memory(m) for m in chip.memories if m.placement == place)
            for place in ("on-chip", "off-chip")
        }
        rows.append(
            (
                f"[`{chip.name}`](#{chip.name})",
                chip.vendor,
                str(chip.year or ""),
                placed["on-chip"],
                placed["off-chip"],
                _brief(chip.weight_entry_bytes_per_s, "B/s"),
                *(_tera(chip.peak_flops_per_s.get(dtype)) for dtype in _COMPARED),
                "<br>".join(_link(link) for link in chip.links if link.scope == "chips"),
                _brief(chip.power_w, "W"),
                _price(chip),
            )
        )
    return _table(rows)


def _details(chip: Chip) -> str:
    rows = [("number", "value", "range", "kind", "source")]
    for name, number, unit in _numbers(chip):
        span = "" if number.low is None and number.high is None else _span(number, unit)
        rows.append((name, scaled(number.value, unit), span, number.kind, _cell(number.source)))
    also = ", ".join(f"`{alias}`" for alias in chip.aliases)
    told = [f"Also {also}." if also else "", chip.note]
    links = [
        f"Link {link.name}: {link.topology}, {link.ports} port{'s' * (link.ports > 1)} a "
        f"{'core' if link.scope == 'on-chip' else 'chip'}"
        + (f", at most {link.nodes}." if link.nodes else ".")
        for link in chip.links
    ]
    return f"### {chip.name}\n\n{' '.join(t for t in (*told, *links) if t)}\n\n{_table(rows)}"


def _numbers(chip: Chip) -> Iterable[tuple[str, Sourced, str]]:
    for memory in chip.memories:
        yield f"{memory.name} capacity", memory.capacity_bytes, "B"
        yield f"{memory.name} bandwidth", memory.bandwidth_bytes_per_s, "B/s"
        if memory.achieved_share is not None:
            yield f"{memory.name} achieved share", memory.achieved_share, ""
        yield f"{memory.name} latency", memory.latency_s, "s"
    if chip.weight_entry_bytes_per_s is not None:
        yield "weights enter the compute units", chip.weight_entry_bytes_per_s, "B/s"
    for dtype, peak in chip.peak_flops_per_s.items():
        yield f"{dtype} peak", peak, "FLOP/s"
    for link in chip.links:
        yield f"{link.name} bandwidth", link.bandwidth_bytes_per_s, "B/s"
        yield f"{link.name} hop", link.latency_s, "s"
        for count, seconds in link.small_allreduce_s.items():
            yield f"{link.name} all-reduce of 8 KB over {count}", seconds, "s"
    if chip.power_w is not None:
        yield "power", chip.power_w, "W"
    if chip.price_usd is not None:
        yield "price", chip.price_usd, "$"
    if chip.price_usd_per_hour is not None:
        yield "price of an hour", chip.price_usd_per_hour, "$"


def scaled(value: float, unit: str) -> str:
    """A number with an SI prefix, four digits: 3.35e12, "B/s" -> "3.35 TB/s"."""
    if unit in ("", "$"):
        return f"{unit}{value:,.10g}"
    for factor, prefix in (
        (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""),
        (1e-3, "m"), (1e-6, "u"), (1e-9, "n"),
    ):  # fmt: skip
        if value >= factor * (1 - 1e-9):
            return f"{value / factor:.4g} {prefix}{unit}"
    return f"{value:.4g} {unit}"


def _brief(number: Sourced | None, unit: str) -> str:
    if number is None:
        return ""
    return ("~" if number.kind == "assumed" else "") + scaled(number.value, unit)


def _tera(number: Sourced | None) -> str:
    if number is None:
        return ""
    return ("~" if number.kind == "assumed" else "") + f"{number.value / 1e12:,.5g}"


def _memory(memory: Memory) -> str:
    capacity = _brief(memory.capacity_bytes, "B")
    return f"{memory.name}: {capacity}, {_brief(memory.bandwidth_bytes_per_s, 'B/s')}"


def _link(link: Link) -> str:
    return f"{link.name}: {_brief(link.bandwidth_bytes_per_s, 'B/s')}, {link.topology}"


def _price(chip: Chip) -> str:
    hourly = _brief(chip.price_usd_per_hour, "$")
    return " ".join(p for p in (_brief(chip.price_usd, "$"), hourly and f"{hourly}/h") if p)


def _span(number: Sourced, unit: str) -> str:
    ends = (number.value if end is None else end for end in (number.low, number.high))
    return " to ".join(scaled(end, unit) for end in ends)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]) + "\n"
