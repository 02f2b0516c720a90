"""Predicted against measured: a mark for each row of a case file, its 80 % range behind it."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.whole_file import write_whole

Row = Mapping[str, str]

_BEYOND = 1.3  # the axes go so far beyond the outermost rows, so that none is on their edge


def draw(path: Path, panels: Mapping[str, Sequence[Row]]) -> None:
    """Writes `figure_of` as a PNG."""
    image = io.BytesIO()
    figure_of(panels).savefig(image, format="png", dpi=120)
    write_whole(path, image.getvalue())


def figure_of(panels: Mapping[str, Sequence[Row]]) -> Any:
    """One panel for each group of rows, by its title, all on the same axes.

    A mark for each stack; hollow for rows of tier 3. Rows that cannot be done have none.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 (a second that other uses need not wait)

    drawn = {
        title: [row for row in rows if row["predicted_ms"] and row["ms_per_token"]]
        for title, rows in panels.items()
    }
    every = [row for rows in drawn.values() for row in rows]
    found = [float(row[name]) for row in every for name in ("ms_per_token", "predicted_ms")]
    ends = [min(found, default=1.0) / _BEYOND, max(found, default=1.0) * _BEYOND]
    stacks = sorted({row["stack"] for row in every})
    figure = Figure(figsize=(7.5 * len(drawn), 7.0), layout="constrained")
    grid = figure.subplots(1, len(drawn), sharey=True, squeeze=False)[0]
    for axes, (title, rows) in zip(grid, drawn.items(), strict=True):
        axes.plot(ends, ends, color="#444444", linewidth=1)
        for factor in (0.8, 1.25):
            axes.plot(ends, [factor * n for n in ends], color="#bbbbbb", linewidth=0.8)
        for number, stack in enumerate(stacks):
            _mark(axes, stack, number, [row for row in rows if row["stack"] == stack])
        axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, title=title)
        axes.set_xlabel("measured, ms per token")
    grid[0].set_ylabel("predicted, ms per token")
    grid[0].legend(fontsize=8, title="stack (hollow: tier 3, noisy)", title_fontsize=8)
    figure.suptitle(
        "Published decode latencies, and emu.predict with 80 % ranges (lines: 25 % off)"
    )
    return figure


def _mark(axes: Any, stack: str, number: int, rows: Sequence[Row]) -> None:
    colour, labelled = f"C{number % 10}", False
    for hollow in (False, True):
        mine = [row for row in rows if (row["tier"] == "3") == hollow]
        if not mine:
            continue
        at, predicted, low, high = (
            [float(row[name]) for row in mine]
            for name in ("ms_per_token", "predicted_ms", "low_ms", "high_ms")
        )
        axes.vlines(at, low, high, colors=colour, linewidth=0.8, alpha=0.6)
        axes.scatter(
            at,
            predicted,
            s=26,
            marker="os^Dv<>PX*"[(number + 3 * (number // 10)) % 10],
            facecolors="none" if hollow else colour,
            edgecolors=colour,
            label=None if labelled else stack,
        )
        labelled = True
