import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import generate
from experiments.errors import ExperimentError
from models.checkpoint import Checkpoint, open_checkpoint
from tests.experiments.commands import run_command
from tests.waiting import HANGS_S

TINY = Path("tests/golden/tiny_llama").resolve()
TINY_CHAT = Path("tests/golden/tiny_qwen2").resolve()


@pytest.fixture(scope="module")
def tiny() -> Checkpoint:
    return open_checkpoint(TINY)


def run(*flags: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "experiments.generate", *flags],
        capture_output=True,
        text=True,
        timeout=HANGS_S,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        check=False,
    )


def run_quickly(*flags: str) -> "subprocess.CompletedProcess[str]":
    cpu = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return run_command("experiments.generate", *flags, environment=cpu)


@pytest.mark.newest
def test_json_holds_ids_text_and_times(tiny: Checkpoint) -> None:
    done = run(f"--model={TINY}", "--prompt=ab", "--raw", "--json", "--max_tokens=6")
    assert done.returncode == 0, done.stderr
    out = json.loads(done.stdout)
    assert set(out) == {"prompt_tokens", "tokens", "text", "ttft_s", "tpot_s"}
    assert out["prompt_tokens"] == tiny.tokenizer.encode("ab")
    assert len(out["tokens"]) == 6
    assert out["text"] == tiny.tokenizer.decode(out["tokens"])
    assert 0 < out["ttft_s"] < 30
    assert 0 < out["tpot_s"] < 30
    plain = run_quickly(f"--model={TINY}", "--prompt=ab", "--raw", "--max_tokens=6")
    assert plain.stdout == out["text"] + "\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--prompt=x", "--model=nowhere/at-all"], "nowhere/at-all"),
        (["--prompt=x", "--max_tokens=100000"], "exceed the model's context"),
        (["--prompt=x", "--seed=99999999999999999999", "--temperature=1"], "seed must be from 0"),
        (["--prompt=x", "--promt=y"], "Unknown command line flag 'promt'"),
    ],
)
def test_what_cannot_be_done_is_one_line(flags: list[str], message: str) -> None:
    done = run_quickly(f"--model={TINY}", *flags)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_prompt_comes_from_one_place(tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("héllo\n", encoding="utf-8")
    assert generate.prompt_text("a", None) == "a"
    assert generate.prompt_text(None, str(file)) == "héllo\n"
    for prompt, path in ((None, None), ("a", str(file))):
        with pytest.raises(ExperimentError, match="give one of --prompt=TEXT and --prompt_file"):
            generate.prompt_text(prompt, path)
    file.write_bytes(b"ok \xff")
    with pytest.raises(ExperimentError, match=r"prompt\.txt: not UTF-8 text at byte 3"):
        generate.prompt_text(None, str(file))


def test_chat_template_is_used_unless_raw() -> None:
    checkpoint = open_checkpoint(TINY_CHAT)
    raw = generate.prompt_ids(checkpoint, "hi", raw=True)
    chat = generate.prompt_ids(checkpoint, "hi", raw=False)
    assert raw == checkpoint.tokenizer.encode("hi")
    if checkpoint.chat_template is None:
        assert chat == checkpoint.tokenizer.encode("hi", add_special=True)
    else:
        turn = checkpoint.chat_template.render([{"role": "user", "content": "hi"}])
        assert chat == checkpoint.tokenizer.encode(turn) != raw


def test_empty_prompt_is_refused(tiny: Checkpoint) -> None:
    chat = open_checkpoint(TINY_CHAT)
    for checkpoint in (tiny, chat):
        for raw in (True, False):
            with pytest.raises(ExperimentError, match="the prompt is empty"):
                generate.prompt_ids(checkpoint, "", raw=raw)


def test_stop_token_is_counted_and_not_shown(
    tiny: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = tiny.tokenizer.encode("ab")
    stop = max(ids) + 1
    written = generate.write(tiny, iter([*ids, stop]), frozenset({stop}), aloud=True)
    assert written["tokens"] == [*ids, stop]
    assert written["text"] == "ab"
    assert capsys.readouterr().out == "ab\n"


def test_one_token_has_no_time_per_output_token(tiny: Checkpoint) -> None:
    (first, *_) = tiny.tokenizer.encode("ab")
    assert generate.write(tiny, iter([first]), frozenset(), aloud=False)["tpot_s"] is None
