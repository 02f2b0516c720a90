"""What docs/calibrate.md shows works as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_example_runs():
    page = (ROOT / "docs" / "calibrate.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shares = re.findall(r"off_chip_share: (\S+) \((\S+) to (\S+)\)", done.stdout)
    ((value, low, high),) = [[float(n) for n in found] for found in shares]
    assert 0.5 < low < value < high <= 1.0
    errors = [float(n) for n in re.findall(r"([+-]\d+\.\d)%", done.stdout)]
    assert len(errors) == 3
    assert max(map(abs, errors)) < 5
