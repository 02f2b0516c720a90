"""Rows of several workdirs as one table, and the notebook that draws it."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jupytext
import pytest

from experiments.configs import seconds_saved as config
from experiments.errors import ExperimentError
from experiments.gathered import gathered, sessions
from experiments.results import ResultsFile, parse
from experiments.run import chosen
from experiments.workdir import open_results
from tests.experiments.conftest import BUCKET
from tests.experiments.test_run import executed_notebook

NOTEBOOKS = Path("experiments/notebooks").resolve()
DATA = NOTEBOOKS / "data"


def test_folders_files_and_buckets_are_one_table(s3: dict[str, str], tmp_path: Path) -> None:
    shipped = DATA / "quickstart.jsonl"
    rows = parse(shipped.read_bytes(), shipped)
    url = f"s3://{BUCKET}/other"
    with open_results(url) as results:
        for row in rows[:3]:
            results.append({**row, "machine": {**row["machine"], "backend": "gpu", "device": "X"}})
    with ResultsFile(tmp_path) as results:
        results.append({**rows[0], "key": f"{rows[0]['key']} @ jax=1"})
        results.append({**rows[0], "key": f"{rows[0]['key']} @ jax=2"})
    kept, table = gathered([str(shipped), url, str(tmp_path)])
    assert len(kept) == len(table) == len(rows) + 3 + 1
    assert kept[-1]["key"].endswith("@ jax=2")  # what was measured again counts once
    assert list(table["workdir"].unique()) == [str(shipped), url, str(tmp_path)]
    assert set(table["machine"]) == {"AMD EPYC x 2", "X x 1"}
    medians = [row["measured"]["latency"]["median_s"] for row in rows[:3]]
    assert list(table["latency.median_s"][:3]) == medians
    with pytest.raises(ExperimentError, match="no finished measurements in"):
        gathered([str(tmp_path / "none")])


def test_sessions_are_told_of_the_systems_that_there_are_rows_of() -> None:
    rows, _ = gathered([str(DATA / "sessions.jsonl")])
    _, settings = chosen(config.get_config())
    report = sessions(rows, settings)
    assert report is not None
    assert [figure.name for figure in report.figures] == ["waterfall_typical", "waterfall_mean"]
    others, _ = gathered([str(DATA / "quickstart.jsonl")])
    assert sessions(others, settings) is None


def test_the_notebook_draws_what_it_ships_with_beside_a_workdir_in_a_bucket(
    s3: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = NOTEBOOKS / "machines.py"
    shipped = re.findall(r'^shipped = "(.*)"$', source.read_text(), re.MULTILINE)
    url = f"s3://{BUCKET}/rented"
    rows = parse((DATA / "cliff.jsonl").read_bytes(), DATA / "cliff.jsonl")
    with open_results(url) as results:
        for row in rows:
            rented = {**row["machine"], "backend": "gpu", "device": "H100", "devices": 1}
            results.append({**row, "machine": rented})
    monkeypatch.setenv("EMU_RESULTS", f"{shipped[0]} {url}")
    shown = executed_notebook(tmp_path, source)
    assert shown.count("image/png") == 4  # the cliff, predictions, and two of sessions
    assert "off/on" in shown
    assert "AMD EPYC" in shown
    assert "H100 x 1" in shown
    assert url in shown


def test_the_notebook_opens_on_what_it_ships_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EMU_RESULTS", raising=False)
    monkeypatch.chdir(NOTEBOOKS)
    reads = next(c for c in jupytext.read("machines.py").cells if c.cell_type == "code")
    names: dict[str, Any] = {}
    exec(reads.source, names)
    assert set(names["table"]["workdir"]) == {f"data/{path.name}" for path in DATA.glob("*.jsonl")}


@pytest.mark.parametrize("name", ["machines", "results"])
def test_both_forms_of_a_notebook_say_the_same(name: str) -> None:
    forms = [jupytext.read(NOTEBOOKS / f"{name}.{ending}") for ending in ("py", "ipynb")]
    text, notebook = (
        [(cell.cell_type, cell.source.strip()) for cell in form.cells] for form in forms
    )
    assert text == notebook, f"jupytext --sync {name}.py"
    assert not any(cell.get("outputs") for cell in forms[1].cells)


def test_small_results_are_small_and_name_nobody() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", str(DATA)], capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(tracked) == 3
    for path in DATA.glob("*.jsonl"):
        assert path.stat().st_size < 300_000
        for line in path.read_text().splitlines():
            assert set(json.loads(line)["machine"]) >= {"processor", "backend", "device"}
            assert "/root" not in line
            assert "/home" not in line
