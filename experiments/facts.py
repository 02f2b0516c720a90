"""Where a report's rows came from, as tables: machine, versions, commits, disturbance, notes."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from emu.report import Table
from experiments.cliff_summary import samples as samples_of
from experiments.results import Row

_NUMBER = re.compile(r"(?<![\w.,])\d[\d,]*(?:\.\d+)?(?![\w.,]*\w)")


def tables(rows: Sequence[Row]) -> tuple[Table, ...]:
    """Facts about these rows; a fact that differs between rows is listed with all its values."""
    if not rows:
        return ()
    if not any("pair" in row["measured"] for row in rows):
        return _predicted(rows)
    latencies = [found for row in rows for found in _latencies(row["measured"])]
    samples = sum(samples_of(found) for found in latencies)
    disturbed = sum(found["disturbed_count"] for found in latencies)
    times = sorted(row["finished"] for row in rows)
    measured = (
        ("rows", str(len(rows))),
        ("finished", f"{times[0]} to {times[-1]}"),
        ("samples", str(samples)),
        ("disturbed by other processes", f"{disturbed} of {samples}"),
        (
            "rows marked as disturbed",
            f"{_marked_count(rows)} of {len(rows)} (over 30 % of samples)",
        ),
        ("memories", _values(_memories(row["measured"]) for row in rows)),
        ("commit", _values(_commit(row["git"]) for row in rows)),
    )
    return (
        Table(title="Measurements", columns=("what", "value"), rows=measured),
        *_notes(rows),
        Table(title="Machine", columns=("what", "value"), rows=_each(rows, "machine")),
        Table(title="Versions", columns=("what", "value"), rows=_each(rows, "versions")),
    )


def _predicted(rows: Sequence[Row]) -> tuple[Table, ...]:
    """Of rows that hold predictions: the machine that made them is beside the point."""
    times = sorted(row["finished"] for row in rows)
    made = (
        ("predictions", str(len(rows))),
        ("finished", f"{times[0]} to {times[-1]}"),
        ("commit", _values(_commit(row["git"]) for row in rows)),
    )
    return (
        Table(title="Predictions", columns=("what", "value"), rows=made),
        Table(title="Versions", columns=("what", "value"), rows=_each(rows, "versions")),
    )


def warning(rows: Sequence[Row]) -> tuple[str, ...]:
    """What a reader has to know before believing the answer: one sentence, or none."""
    marked = _marked_count(rows)
    if not marked:
        return ()
    return (
        f"Careful: other processes disturbed over 30 % of the samples in {marked} of {len(rows)} "
        "rows. Run again in a fresh workdir when the machine is quiet.",
    )


def _notes(rows: Sequence[Row]) -> tuple[Table, ...]:
    """What has to be known of some rows: notes that differ in their numbers alone are one line."""
    found: dict[tuple[str, ...], list[tuple[list[str], Row]]] = {}
    for row in rows:
        for note in row["measured"]["notes"]:
            words = tuple(_NUMBER.split(note))
            found.setdefault(words, []).append((_NUMBER.findall(note), row))
    lines = []
    for words, cases in found.items():
        ranges = [_range(column) for column in zip(*(n for n, _ in cases), strict=True)]
        note = words[0] + "".join(n + w for n, w in zip(ranges, words[1:], strict=True))
        of = (
            ", ".join(dict.fromkeys(str(row["measured"][what]) for _, row in cases))
            for what in ("dtype", "placement")
        )
        lines.append((note, f"{len(cases)} of {len(rows)}", *of))
    if not lines:
        return ()
    columns = ("note", "rows", "dtype", "placement")
    return (Table(title="Notes", columns=columns, rows=tuple(lines)),)


def _range(numbers: Sequence[str]) -> str:
    ordered = sorted(set(numbers), key=lambda n: float(n.replace(",", "")))
    return ordered[0] if len(ordered) == 1 else f"{ordered[0]} to {ordered[-1]}"


def _each(rows: Sequence[Row], part: str) -> tuple[tuple[str, str], ...]:
    names = dict.fromkeys(name for row in rows for name in row[part])
    return tuple((name, _values(str(row[part].get(name)) for row in rows)) for name in names)


def _values(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))


def _latencies(measured: dict[str, Any]) -> list[dict[str, Any]]:
    return [v for v in measured.values() if isinstance(v, dict) and "median_s" in v]


def _marked_count(rows: Sequence[Row]) -> int:
    return sum(any(s["disturbed"] for s in _latencies(row["measured"])) for row in rows)


def _memories(measured: dict[str, Any]) -> str:
    return f"{measured['on_chip']} against {measured['off_chip']} by {measured['pair']}"


def _commit(git: dict[str, Any]) -> str:
    if git["commit"] is None:
        return "not from a git checkout"
    return str(git["commit"])[:12] + (
        " with changes that are not committed" if git["dirty"] else ""
    )
