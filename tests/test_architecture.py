"""Dependencies go one way: experiments -> models, emu -> kernels; models and emu never meet."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "kernels": set(),
    "models": {"kernels"},
    "emu": {"kernels"},
    "experiments": {"kernels", "models", "emu"},
}


def imported(source: str) -> set[str]:
    """The top-level packages that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("importlib.import_module", "import_module", "__import__")
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            found.add(str(node.args[0].value).split(".")[0])
    return found


def forbidden(package: str, source: str) -> set[str]:
    return imported(source) & (set(MAY_IMPORT) - MAY_IMPORT[package] - {package})


def test_the_check_sees_every_kind_of_import():
    source = """
import emu
from models.config import DecoderConfig
from . import sibling
def late():
    import experiments.run as run
    importlib.import_module("kernels.build")
"""
    assert imported(source) == {"emu", "models", "experiments", "kernels"}
    assert forbidden("kernels", source) == {"emu", "models", "experiments"}
    assert forbidden("emu", source) == {"models", "experiments"}
    assert forbidden("experiments", source) == set()


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_stands_before_it(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    wrong = {
        str(file.relative_to(ROOT)): found
        for file in files
        if (found := forbidden(package, file.read_text(encoding="utf-8")))
    }
    assert not wrong


def test_importing_emu_changes_no_global_flag_of_jax():
    settings = {
        str(file.relative_to(ROOT)): line.strip()
        for file in sorted((ROOT / "emu").rglob("*.py"))
        for line in file.read_text(encoding="utf-8").splitlines()
        if "jax.config.update" in line or "jax_enable_x64" in line
    }
    assert not settings
