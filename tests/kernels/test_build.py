"""The make stamp says that the products are there, not that somebody tried."""

from pathlib import Path

import pytest

from kernels import build


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "_build" / "products.so"
    monkeypatch.setattr(build, "library", lambda: path)
    return path


def compiler_that(folder: Path, does: str) -> str:
    path = folder / "c++"
    path.write_text(f"#!/bin/sh\n{does}\n")
    path.chmod(0o755)
    return str(path)


def test_without_a_compiler_there_is_no_stamp_and_with_one_later_there_is(
    target: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stamp = tmp_path / "products"
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    assert build.main([str(stamp)]) == 0  # everything works without
    assert "no C++ compiler found (set CXX" in capsys.readouterr().err
    assert not stamp.exists()
    writes_last = 'for last; do :; done; echo built > "$last"'
    monkeypatch.setenv("CXX", compiler_that(tmp_path, writes_last))
    assert build.main([str(stamp)]) == 0
    assert stamp.exists()
    assert target.read_text() == "built\n"


def test_a_compiler_that_fails_leaves_nothing(
    target: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CXX", compiler_that(tmp_path, "echo 'x.cc: error: no' >&2; exit 1"))
    assert build.main([str(tmp_path / "products")]) == 0
    assert "failed: x.cc: error: no; plain JAX products" in capsys.readouterr().err
    assert not (tmp_path / "products").exists()
    assert list(target.parent.iterdir()) == []
