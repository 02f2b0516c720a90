"""Tables of cases with what was predicted of them, written whole or not at all."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from experiments.errors import ExperimentError
from experiments.whole_file import write_whole


def write_table(path: Path, rows: Sequence[dict[str, str]]) -> None:
    """Write rows that all have the columns of the first. Raises ExperimentError."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    try:
        write_whole(path, text.getvalue().encode())
    except OSError as error:
        raise ExperimentError(f"{path}: cannot be written ({error})") from error
