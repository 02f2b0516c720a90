"""Named models: resolving, fetching wheels with pip, and everything that can go wrong. 30 s.

Nothing here reaches the network: pip is pointed at a folder with a tiny wheel made here.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import types
import zipfile

import pytest

from models import checked, fetch, named
from models.checked import check_file, sha256_of
from models.errors import ModelError
from models.fetch import PublishedFile, WheelPart
from tests.waiting import HANGS_S

PARTS = [b"the first part " * 1000, b"and the second " * 500]
CONTENT = b"".join(PARTS)


def make_wheel(folder, package, member, data):
    """The smallest wheel that pip takes, holding one data file."""
    folder.mkdir(exist_ok=True)
    module = package.replace("-", "_")
    path = folder / f"{module}-1.0-py3-none-any.whl"
    meta = f"{module}-1.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(member, data)
        # Whoever imports or installs it would notice; nobody does.
        wheel.writestr(f"{module}/__init__.py", "raise SystemExit('imported')")
        named = f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n"
        tagged = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{meta}/METADATA", named)
        wheel.writestr(f"{meta}/WHEEL", tagged)
        wheel.writestr(f"{meta}/RECORD", "")
    return path


def publish(folder):
    """A file of two parts, each in a wheel in the folder."""
    parts = []
    for number, data in enumerate(PARTS, start=1):
        package, member = f"emu-test-part{number}", f"emu_test_part{number}/data/part.bin"
        wheel = make_wheel(folder, package, member, data)
        parts.append(
            WheelPart(
                package=package,
                version="1.0",
                wheel_sha256=sha256_of(wheel),
                wheel_bytes=wheel.stat().st_size,
                member=member,
            )
        )
    return PublishedFile(
        file_name="tiny.gguf",
        size_bytes=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        parts=tuple(parts),
    )


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that stands for the package index, and pip set up to know no other."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return tmp_path / "index"


@pytest.fixture
def tiny(index, tmp_path, monkeypatch):
    """The published file under the name 'tiny', with an empty cache in tmp_path."""
    published = publish(index)
    monkeypatch.setitem(named.NAMED_MODELS, "tiny", published)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return published


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


@pytest.mark.newest
def test_a_named_model_is_fetched_once(tiny, index, tmp_path):
    path = named.resolve("tiny")
    assert path == tmp_path / "cache" / "emu" / "models" / "tiny.gguf"
    assert path.read_bytes() == CONTENT
    assert visible(path.parent) == ["tiny.gguf"]  # nothing else is left
    shutil.rmtree(index)
    before = path.stat()
    assert named.resolve("tiny") == path  # with the index gone
    assert path.stat() == before


def test_a_cached_model_is_resolved_without_any_process_or_network(tiny, monkeypatch):
    named.resolve("tiny")

    def refuse(*args, **kwargs):
        raise AssertionError("reached out")

    monkeypatch.setattr("subprocess.Popen", refuse)
    monkeypatch.setattr("socket.socket", refuse)
    assert named.resolve("tiny").read_bytes() == CONTENT


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert named.cache_folder() == tmp_path / "emu" / "models"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for unusable in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", unusable)
        assert named.cache_folder() == tmp_path / "home" / ".cache" / "emu" / "models"


@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct"])
def test_what_is_published(name):
    published = named.NAMED_MODELS[name]
    for digest in (published.sha256, *(part.wheel_sha256 for part in published.parts)):
        assert len(bytes.fromhex(digest)) == 32
    assert len({part.package for part in published.parts}) == len(published.parts)


def damage_cut(path):
    path.write_bytes(path.read_bytes()[:-1])
    return "has 22499 bytes instead of 22500"


def damage_bit(path):
    data = bytearray(path.read_bytes())
    data[12345] ^= 1
    path.write_bytes(data)
    return "altered: its SHA-256 is"


def damage_bit_keeping_times(path):
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    message = damage_bit(path)
    os.utime(path, ns=times)
    return message


@pytest.mark.parametrize("always_hashed_bytes", [10**6, 0], ids=["hashed always", "remembered"])
@pytest.mark.parametrize("damage", [damage_cut, damage_bit, damage_bit_keeping_times])
def test_a_cached_file_that_was_altered_is_refused(tiny, monkeypatch, damage, always_hashed_bytes):
    monkeypatch.setattr(checked, "_ALWAYS_HASHED_BYTES", always_hashed_bytes)
    path = named.cache_folder() / "tiny.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert named.resolve("tiny") == path
    message = damage(path)
    for _ in range(2):
        with pytest.raises(ModelError, match=message) as refusal:
            named.resolve("tiny")
        assert str(refusal.value).endswith(
            "delete it, and `python -m models.named tiny` fetches it anew"
        )


def test_an_altered_file_that_is_deleted_is_fetched_anew(tiny):
    path = named.resolve("tiny")
    damage_bit(path)
    path.unlink()
    assert named.resolve("tiny").read_bytes() == CONTENT


def test_a_large_file_is_hashed_once(tmp_path, monkeypatch):
    monkeypatch.setattr(checked, "_ALWAYS_HASHED_BYTES", 0)
    hashed = []
    monkeypatch.setattr(checked, "sha256_of", lambda path: hashed.append(path) or sha256_of(path))
    path = tmp_path / "large"
    path.write_bytes(CONTENT)
    expected = (len(CONTENT), sha256_of(path), "help")
    for _ in range(3):
        check_file(path, *expected)
    assert len(hashed) == 1
    os.utime(path)  # touched: perhaps altered
    check_file(path, *expected)
    assert len(hashed) == 2
    memory = tmp_path / "large.sha256.json"
    memory.write_text("no JSON")
    check_file(path, *expected)
    assert len(hashed) == 3
    # What is remembered is of this hash: another one asked for is not met by it.
    with pytest.raises(ModelError, match="altered"):
        check_file(path, len(CONTENT), "0" * 64, "help")
    memory.unlink()
    memory.mkdir()  # nothing can be remembered, and all still works
    for _ in range(2):
        check_file(path, *expected)
    assert visible(tmp_path) == ["large", "large.sha256.json"]


def assert_fails(published, folder, message):
    with pytest.raises(ModelError, match=message) as failure:
        fetch.fetch(published, folder)
    assert "\n" not in str(failure.value)
    if folder.is_dir():
        assert visible(folder) == []  # nothing half-written is left


def test_a_wheel_that_is_not_the_published_one(tiny, index, tmp_path):
    make_wheel(index, "emu-test-part2", "emu_test_part2/data/part.bin", b"something else")
    assert_fails(tiny, tmp_path / "cache", "emu-test-part2==1.0 failed: the wheel is not the one")


def test_a_wheel_without_its_member(tiny, index, tmp_path):
    wheel = make_wheel(index, "emu-test-part2", "elsewhere.bin", PARTS[1])
    first, second = tiny.parts
    second = WheelPart(**{**vars(second), "wheel_sha256": sha256_of(wheel)})
    published = PublishedFile(**{**vars(tiny), "parts": (first, second)})
    assert_fails(published, tmp_path / "cache", "does not hold emu_test_part2/data/part.bin")


def test_parts_that_do_not_make_the_published_file(tiny, tmp_path):
    published = PublishedFile(**{**vars(tiny), "parts": tiny.parts[::-1]})
    assert_fails(published, tmp_path / "cache", "has 22500 bytes and SHA-256 .* not kept")


def test_an_index_without_the_wheel(tiny, index, tmp_path):
    shutil.rmtree(index)
    index.mkdir()
    assert_fails(tiny, tmp_path / "cache", "part1==1.0 failed: the package index .* does not have")


def test_no_network(tiny, tmp_path, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    # A port on this machine where nobody listens.
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    assert_fails(tiny, tmp_path / "cache", "the package index could not be reached")


def test_no_pip(tiny, tmp_path, monkeypatch):
    # An interpreter that sees no site-packages has no pip.
    bare = tmp_path / "bare-python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -I "$@"\n')
    bare.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(bare))
    assert_fails(tiny, tmp_path / "cache", "this Python has no pip; try `python -m ensurepip`")


def test_a_reason_that_pip_gives_and_one_that_it_does_not():
    assert fetch._reason("WARNING: a\nERROR: Some other thing\n\n") == "ERROR: Some other thing"
    assert (
        fetch._reason("OSError: [Errno 28] No space left on device") == "no room left on the disk"
    )
    assert fetch._reason("") == "pip gave no reason"


def test_too_little_room_on_the_disk(tiny, tmp_path, monkeypatch):
    usage = types.SimpleNamespace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    assert_fails(tiny, tmp_path / "cache", "takes 0 MB of disk, 0 MB are free; XDG_CACHE_HOME can")


def test_a_disk_that_fills_up(tiny, tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    assert_fails(tiny, tmp_path / "cache", "no room left on the disk")


def test_a_cache_folder_that_cannot_be_written_to(tiny, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    assert_fails(tiny, tmp_path / "file" / "cache", "cannot be written there: Not a directory")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="XDG_CACHE_HOME can name another place"):
        named.resolve("tiny")


def test_an_interrupted_fetch_leaves_nothing(tiny, tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch, "_download", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch.fetch(tiny, tmp_path / "cache")
    assert visible(tmp_path / "cache") == []


def test_what_a_killed_process_left_is_removed(tiny, tmp_path):
    left = tmp_path / "cache" / ".tiny.gguf.part-abc"
    left.mkdir(parents=True)
    (left / "tiny.gguf").write_bytes(b"half")
    fetch.fetch(tiny, tmp_path / "cache")
    assert visible(tmp_path / "cache") == ["tiny.gguf"]


def test_two_processes_at_once(tiny, tmp_path):
    # Both start with an empty cache; one fetches, the other waits for it.
    code = f"""
import json, pathlib
from models.fetch import PublishedFile, WheelPart, fetch
known = json.loads({json.dumps(json.dumps({**vars(tiny), "parts": [vars(p) for p in tiny.parts]}))})
parts = tuple(WheelPart(**part) for part in known.pop("parts"))
print(fetch(PublishedFile(**known, parts=parts), pathlib.Path({str(tmp_path / "cache")!r})))
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    printed = [process.communicate(timeout=HANGS_S)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert set(printed) == {str(tmp_path / "cache" / "tiny.gguf")}
    assert (tmp_path / "cache" / "tiny.gguf").read_bytes() == CONTENT
    assert visible(tmp_path / "cache") == ["tiny.gguf"]


def test_paths(tmp_path, monkeypatch):
    (tmp_path / "model.gguf").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    assert named.resolve(str(tmp_path / "model.gguf")) == tmp_path / "model.gguf"
    assert named.resolve(str(tmp_path / "folder")) == tmp_path / "folder"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert named.resolve("~/folder") == tmp_path / "folder"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("smollm2", "no model is called 'smollm2'; did you mean 'smollm2-135m-instruct'?"),
        ("Qwen2.5-Coder-0.5B", "did you mean 'qwen2.5-coder-0.5b-instruct'?"),
        ("zzz", "there are smollm2-135m-instruct, qwen2.5-coder-0.5b-instruct"),
        ("", "no model is called ''"),
        ("nothing.gguf", "nothing.gguf: no such file or folder"),
        ("some/where", "some/where: no such file or folder"),
        ("x" * 5000, "cannot be looked at: .*File name too long"),
        ("~nobody-of-this-name/x", "cannot be looked at"),
        ("hf:name-alone", "hf:name-alone: a model on the Hub is named hf:owner/name"),
        ("hf:a/b/c", "a model on the Hub is named hf:owner/name"),
    ],
)
def test_names_that_lead_nowhere(model, message):
    with pytest.raises(ModelError, match=message):
        named.resolve(model)


def test_the_command_prints_the_path(tiny, capfd):
    assert named.main(["tiny"]) == 0
    printed = capfd.readouterr()
    assert printed.out == f"{named.cache_folder() / 'tiny.gguf'}\n"


def test_the_command_helps(capsys):
    with pytest.raises(SystemExit) as end:
        named.main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: python -m models.named [-h] [MODEL ...]")
    for name, published in named.NAMED_MODELS.items():
        assert re.search(rf"{re.escape(name)} .* MB  {re.escape(published.file_name)}", shown)


def test_a_wrong_option_is_one_line(capsys):
    with pytest.raises(SystemExit) as end:
        named.main(["--fetch", "smollm2-135m-instruct"])
    assert end.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == (
        "error: unrecognized arguments: --fetch; --help tells what can be asked for\n"
    )


def test_the_command_fails_in_one_line():
    finished = subprocess.run(
        [sys.executable, "-m", "models.named", "smolm"], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 1
    assert finished.stdout == ""
    assert finished.stderr.startswith("error: no model is called 'smolm'; did you mean 'smollm2-")
    assert finished.stderr.count("\n") == 1


class FakeHub(types.ModuleType):
    """huggingface_hub with one model in its cache and one on the network."""

    def __init__(self, folder):
        super().__init__("huggingface_hub")
        self.folder, self.asked = folder, []
        self.errors = types.SimpleNamespace(LocalEntryNotFoundError=FileNotFoundError)

    def snapshot_download(self, repository, local_files_only=False, allow_patterns=None):
        self.asked.append((repository, local_files_only, allow_patterns))
        if repository == "owner/missing":
            raise FileNotFoundError if local_files_only else ConnectionError("no\nnetwork")
        if repository == "owner/new" and local_files_only:
            raise FileNotFoundError
        return str(self.folder)


@pytest.fixture
def fake_hub(tmp_path, monkeypatch):
    fake = FakeHub(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    return fake


def test_a_hub_model_that_is_cached_whole_is_not_asked_for_again(fake_hub, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model-1.safetensors").write_bytes(b"")
    assert named.resolve("hf:owner/cached") == tmp_path
    assert [local for _, local, _ in fake_hub.asked] == [True, False]  # a part was missing
    (tmp_path / "model-2.safetensors").write_bytes(b"")
    fake_hub.asked.clear()
    assert named.resolve("hf:owner/cached") == tmp_path
    assert [local for _, local, _ in fake_hub.asked] == [True]


def test_a_hub_model_that_is_new_is_downloaded_without_code(fake_hub, tmp_path):
    assert named.resolve("hf:owner/new") == tmp_path
    assert fake_hub.asked[-1] == ("owner/new", False, ["*.json", "*.jinja", "*.safetensors"])


def test_a_hub_that_cannot_be_reached(fake_hub):
    with pytest.raises(ModelError, match=r"hf:owner/missing: cannot be fetched .*: no$"):
        named.resolve("hf:owner/missing")


def test_without_huggingface_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModelError, match="huggingface_hub is not installed; `pip install"):
        named.resolve("hf:owner/name")


def test_the_real_hub_library_without_a_network(tmp_path):
    pytest.importorskip("huggingface_hub")
    finished = subprocess.run(
        [sys.executable, "-m", "models.named", "hf:owner/none"],
        env={**os.environ, "HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        check=False,
        timeout=HANGS_S,
    )
    assert finished.returncode == 1
    assert finished.stdout == ""
    assert finished.stderr.splitlines()[-1].startswith("error: hf:owner/none: cannot be fetched")
    assert "Traceback" not in finished.stderr
