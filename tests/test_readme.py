"""What the README shows works as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def example(number):
    """The README's Python blocks, run as a reader would."""
    code = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)[number]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.usefixtures("compiled_in_full")
def test_the_sweep_runs():
    found = example(1).stdout
    counts = dict(re.findall(r"^(\w+) +(\d+)$", found, flags=re.MULTILINE))
    assert sum(map(int, counts.values())) == 80_000
    assert int(counts["overhead"]) > 0
    assert int(counts["weights"]) > 0


@pytest.mark.usefixtures("compiled_in_full")
def test_the_example_runs():
    done = example(0)
    assert re.search(r"layers/\*/kernel x2 +(llc|l2)", done.stdout)
    assert re.search(r"layers/\*/kernel x6 +(dram|hbm)", done.stdout)
    assert re.search(r"\d+ copies of the off-chip weights take turns", done.stdout)
    assert re.search(r"\d ms \(p10", done.stdout)
    assert "no rule covers layers/2/kernel" in done.stdout
    assert "rule 'mlp/**' -> 'on-chip' matches no leaf" in done.stdout
    assert "rule 'layers[:2]/**' -> 'on-chip' decides nothing" in done.stdout


@pytest.mark.parametrize("path", re.findall(r"\]\(([^):]+)\)|(experiments/[\w/]+\.\w+)", README))
def test_the_files_it_names_are_there(path):
    assert (ROOT / next(filter(None, path))).exists()


def test_the_make_targets_it_names_are_there():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert set(re.findall(r"make (\w+)", README)) <= set(targets)
