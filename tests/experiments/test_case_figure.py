import csv
from pathlib import Path

from experiments.case_figure import draw, figure_of


def test_every_row_that_was_done_is_within_the_axes(tmp_path):
    with Path("docs/fidelity.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    undone = rows[0] | {"predicted_ms": "", "low_ms": "", "high_ms": "", "why": "no"}
    panels = {"one": [*rows, undone], "other": rows[:3]}
    for axes, done in zip(figure_of(panels).axes, (rows, rows[:3]), strict=True):
        marks = [tuple(at) for group in axes.collections for at in group.get_offsets()]
        marks = [at for at in marks if at != (0, 0)]  # lines of ranges have one at nothing
        assert sorted(marks) == sorted(
            (float(row["ms_per_token"]), float(row["predicted_ms"])) for row in done
        )
        low, high = axes.get_xlim()
        assert axes.get_ylim() == (low, high)
        assert all(low < n < high for at in marks for n in at)
    draw(tmp_path / "some.png", panels)
    assert (tmp_path / "some.png").read_bytes().startswith(b"\x89PNG")
