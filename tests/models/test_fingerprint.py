import os

import pytest

from models import checked
from models.errors import ModelError
from models.fingerprint import fingerprint


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "model"
    made.mkdir()
    (made / "config.json").write_text("{}")
    (made / "model.safetensors").write_bytes(bytes(1000))
    (made / "README.md").write_text("a model")
    return made


def test_a_file_is_known_by_its_bytes(tmp_path):
    first, second = tmp_path / "a.gguf", tmp_path / "b.gguf"
    first.write_bytes(b"weights")
    second.write_bytes(b"weights")
    # echo -n weights | sha256sum
    assert fingerprint(first) == fingerprint(second) == "9a129038d9a00aed"
    second.write_bytes(b"weightz")
    assert fingerprint(second) != fingerprint(first)


def test_a_folder_is_known_by_what_the_model_is_made_of(folder, tmp_path):
    before = fingerprint(folder)
    (folder / "README.md").write_text("the same model")
    elsewhere = folder.rename(tmp_path / "moved")
    assert fingerprint(elsewhere) == before
    for name, data in (("config.json", b"[]"), ("model.safetensors", bytes(999) + b"\1")):
        old = (elsewhere / name).read_bytes()
        (elsewhere / name).write_bytes(data)
        assert fingerprint(elsewhere) != before
        (elsewhere / name).write_bytes(old)
    (elsewhere / "tokenizer.json").write_text("{}")
    assert fingerprint(elsewhere) != before


def test_a_large_file_is_hashed_once_and_again_when_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr(checked, "_ALWAYS_HASHED_BYTES", 0)
    hashed = []
    real = checked.sha256_of
    monkeypatch.setattr(checked, "sha256_of", lambda path: hashed.append(path) or real(path))
    path = tmp_path / "large.gguf"
    path.write_bytes(b"one")
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    before = fingerprint(path)
    assert fingerprint(path) == before
    assert len(hashed) == 1
    assert sorted(tmp_path.iterdir()) == [tmp_path / "cache", path]  # nothing beside it
    path.write_bytes(b"two")
    os.utime(path, ns=times)  # same size and mtime
    assert fingerprint(path) != before
    assert len(hashed) == 2


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"gone\.gguf: cannot be read: No such file"):
        fingerprint(tmp_path / "gone.gguf")


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path, monkeypatch):
    monkeypatch.setattr(checked, "_ALWAYS_HASHED_BYTES", 0)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    path = tmp_path / "large.gguf"
    path.write_bytes(b"weights")
    assert fingerprint(path) == "9a129038d9a00aed"
