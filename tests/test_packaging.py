"""What an installed copy has: every data file that the code reads."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_data_file_is_packaged():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packaged = {
        file
        for package, patterns in listed["package-data"].items()
        for pattern in patterns
        for file in (ROOT / package).glob(pattern)
    }
    data = {
        file
        for package in ("emu", "experiments", "kernels", "models")
        for suffix in ("toml", "csv", "cc", "h")
        for file in (ROOT / package).rglob(f"*.{suffix}")
    }
    assert len(data) > 20
    assert data == packaged


def test_the_licence_is_the_one_that_is_named():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (licence,) = (ROOT / name for name in project["license-files"])
    first = licence.read_text().split("http")[0].split()
    assert project["license"] == "Apache-2.0"
    assert first == ["Apache", "License", "Version", "2.0,", "January", "2004"]
