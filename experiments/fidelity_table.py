"""The tables and the figure of docs/fidelity.md, from the committed predictions.

    python -m experiments.fidelity_table

Reads docs/fidelity.csv (made by experiments.validate) and docs/left_out.csv (by experiments.fit),
writes what stands between the page's two marks anew, and draws docs/fidelity.png. `make fidelity`
does all three.
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from experiments.case_figure import draw
from experiments.errors import ExperimentError
from experiments.launcher import launch
from experiments.left_out import coverage
from experiments.whole_file import write_whole

PAGE, FIGURE = Path("docs/fidelity.md"), Path("docs/fidelity.png")
_BEGIN, _END = "<!-- tables: begin -->\n", "<!-- tables: end -->\n"

Row = dict[str, str]


def tables(fitted: Sequence[Row], left_out: Sequence[Row]) -> str:
    """Errors by tier, and by chip and stack, fitted and left out; how many ranges hold."""
    groups: dict[str, Callable[[Row], bool]] = {
        "tiers 1 and 2": lambda row: row["tier"] in "12",
        "tier 1": lambda row: row["tier"] == "1",
        "tier 2": lambda row: row["tier"] == "2",
        "tier 3": lambda row: row["tier"] == "3",
        "all": lambda row: True,
    }
    for chip, stack in sorted({(row["chip"], row["stack"]) for row in fitted}):
        groups[f"{chip}, {stack}"] = lambda row, chip=chip, stack=stack: (  # type: ignore[misc]
            (row["chip"], row["stack"]) == (chip, stack)
        )
    together = [row for row in left_out if row["apart"] != "true"]
    lines = [
        "| rows | n | median | p90 | not done | left out: n | median | p90 | in the 80 % range | "
        "high ÷ low |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, chosen in groups.items():
        mine = [row for row in fitted if chosen(row)]
        out = [row for row in together if chosen(row)]
        undone = sum(bool(row["why"]) for row in mine)
        lines.append(f"| {name} | {_errors(mine)} | {undone} | {_errors(out)} | {_ranges(out)} |")
    apart = [
        f"{row['id']} ({row['chip']}, {row['stack']}) {float(row['error']):+.1%}"
        for row in left_out
        if row["apart"] == "true"
    ]
    lines += [
        "",
        "Left out without the rows whose fold leaves nothing of their chip and stack: "
        f"{', '.join(apart)}. Rows that cannot be done are in no fold's figures.",
    ]
    return "\n".join(lines) + "\n"


def _errors(rows: Sequence[Row]) -> str:
    off = np.abs([float(row["error"]) for row in rows if row["error"]])
    if not len(off):
        return "0 | | "
    return f"{len(off)} | {np.median(off):.1%} | {np.quantile(off, 0.9):.1%}"


def _ranges(rows: Sequence[Row]) -> str:
    if not rows:
        return " | "
    inside, width = coverage(rows)
    return f"{inside:.0%} | {width:.2f}"


def with_tables(page: str, new: str) -> str:
    """The page with the tables between its marks. Raises ExperimentError where it has none."""
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise ExperimentError(f"{PAGE}: no lines {_BEGIN.strip()!r} and {_END.strip()!r}")
    return before + begin + new + end + after


def committed() -> Iterator[list[Row]]:
    """The rows of the two tables beside the page."""
    for name in ("fidelity.csv", "left_out.csv"):
        with (PAGE.parent / name).open(newline="", encoding="utf-8") as file:
            yield list(csv.DictReader(file))


def main() -> None:
    """See the module."""
    fitted, left_out = committed()
    page = with_tables(PAGE.read_text(encoding="utf-8"), tables(fitted, left_out))
    write_whole(PAGE, page.encode())
    draw(FIGURE, {"fitted": fitted, "left out: fitted without the row's fold": left_out})
    print(f"tables are in {PAGE}, the figure is {FIGURE}")


if __name__ == "__main__":
    launch(main)
