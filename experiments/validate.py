"""Predict every row of a case file: python -m experiments.validate --cases=FILE --out=FILE

Adds predicted_ms with its 80 % range (low_ms, high_ms), error (predicted ÷ measured − 1) and `why`
for a row that cannot be done, which counts as 100 % error; prints the median, mean and p90 of
absolute errors, by tier and by chip and stack. Nothing is looked up: each row is traced, placed and
timed as `experiments.predict` does it.
"""

import math
from pathlib import Path

from absl import flags

import emu
from experiments import cases
from experiments.case_errors import summary
from experiments.case_figure import draw
from experiments.case_table import write_table
from experiments.errors import ExperimentError
from experiments.launcher import launch
from experiments.progress import progress
from experiments.ranges import range_of
from experiments.whole_file import check_writable
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


def main() -> None:
    """See the module."""
    for path in (OUT.value, FIGURE.value):
        if path:
            check_writable(Path(path))
    rows = validate(CASES.value)
    write_table(Path(OUT.value), rows)
    if FIGURE.value:
        draw(Path(FIGURE.value), {"": rows})
    print("\n".join(summary(rows)))
    print(f"rows are in {OUT.value}")


if __name__ == "__main__":
    launch(main)
