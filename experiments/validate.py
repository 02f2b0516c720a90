"""Predict every row of a case file: python -m experiments.validate --cases=FILE --out=FILE

Adds predicted_ms with its 80 % range (low_ms, high_ms), error (predicted ÷ measured − 1) and `why`
for a row that cannot be done, which counts as 100 % error; prints the median, mean and p90 of
absolute errors, by tier and by chip and stack. Nothing is looked up: each row is traced, placed and
timed as `experiments.predict` does it.
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path

from absl import flags

import emu
from experiments import cases
from experiments.case_errors import summary
from experiments.case_table import write_table
from experiments.errors import ExperimentError
from experiments.launcher import launch
from experiments.progress import progress
from experiments.ranges import range_of
from experiments.whole_file import check_writable, write_whole
from models.errors import ModelError

CASES = flags.DEFINE_string(
    "cases", "experiments/measured/decode_cases.csv", "rows to predict", allow_override=True
)
OUT = flags.DEFINE_string(
    "out", None, "where they go, with predictions", required=True, allow_override=True
)
FIGURE = flags.DEFINE_string("figure", None, "a PNG of predicted against measured, to write too")


def validate(path: Path | str) -> list[dict[str, str]]:
    """All rows of a case file with predicted_ms, low_ms, high_ms, error and why."""
    given = cases.read_rows(path)
    rows = []
    with progress(len(given), "predicting", "row") as bar:
        for row in given:
            rows.append(row.given | _answer(row))
            bar.update()
    return rows


def _answer(row: cases.Row) -> dict[str, str]:
    why = row.why
    if row.case is not None:
        try:
            return _predicted(row.case)
        except (emu.EmuError, ExperimentError, ModelError) as refused:
            why = str(refused)
        except Exception as unexpected:
            why = f"unexpected: {unexpected!r}"
    nothing = {"predicted_ms": "", "low_ms": "", "high_ms": ""}
    return nothing | {"error": "1.0", "why": " ".join(why.split())}


def _predicted(case: cases.Case) -> dict[str, str]:
    placed = cases.place(case)
    found = range_of(placed.seconds, placed.system)
    seconds = placed.seconds()
    error = seconds / case.measured_s - 1
    return {
        "predicted_ms": f"{seconds * 1e3:.4f}",
        "low_ms": f"{found.low_s * 1e3:.4f}",
        "high_ms": f"{found.high_s * 1e3:.4f}",
        "error": "" if math.isnan(error) else f"{error:.4f}",
        "why": "",
    }


def draw(path: Path, rows: Sequence[dict[str, str]]) -> None:
    """Predicted against measured, a mark for each stack; hollow for rows of tier 3."""
    from matplotlib.figure import Figure  # noqa: PLC0415 (a second that other uses need not wait)

    done = [row for row in rows if row["predicted_ms"] and row["ms_per_token"]]
    figure = Figure(figsize=(7.5, 7.0), layout="constrained")
    axes = figure.subplots()
    ends = [0.4, 1600.0]
    axes.plot(ends, ends, color="#444444", linewidth=1)
    for factor in (0.8, 1.25):
        axes.plot(ends, [factor * n for n in ends], color="#bbbbbb", linewidth=0.8)
    stacks = sorted({row["stack"] for row in done})
    for number, stack in enumerate(stacks):
        for hollow in (False, True):
            mine = [r for r in done if r["stack"] == stack and (r["tier"] == "3") == hollow]
            colour = f"C{number % 10}"
            axes.vlines(
                [float(row["ms_per_token"]) for row in mine],
                [float(row["low_ms"]) for row in mine],
                [float(row["high_ms"]) for row in mine],
                colors=colour,
                linewidth=0.8,
                alpha=0.6,
            )
            axes.scatter(
                [float(row["ms_per_token"]) for row in mine],
                [float(row["predicted_ms"]) for row in mine],
                s=26,
                marker="os^Dv<>PX*"[(number + 3 * (number // 10)) % 10],
                facecolors="none" if hollow else colour,
                edgecolors=colour,
                label=None
                if (hollow and any(r["tier"] != "3" and r["stack"] == stack for r in done))
                or not mine
                else stack,
            )
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
    axes.set_xlabel("measured, ms per token")
    axes.set_ylabel("predicted, ms per token")
    axes.set_title("Published decode latencies, and emu.predict with 80 % ranges (lines: 25 % off)")
    axes.legend(fontsize=8, title="stack (hollow: tier 3, noisy)", title_fontsize=8)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    write_whole(path, image.getvalue())


def main() -> None:
    """See the module."""
    for path in (OUT.value, FIGURE.value):
        if path:
            check_writable(Path(path))
    rows = validate(CASES.value)
    write_table(Path(OUT.value), rows)
    if FIGURE.value:
        draw(Path(FIGURE.value), rows)
    print("\n".join(summary(rows)))
    print(f"rows are in {OUT.value}")


if __name__ == "__main__":
    launch(main)
