"""The experiments end to end, on a tiny model and on a machine whose memories are made up."""

import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jupytext
import nbclient
import pytest

from experiments.results import PARTS
from tests.experiments.commands import run_command
from tests.waiting import HANGS_S, wait_until

NOTEBOOK = Path("experiments/notebooks/results.ipynb").resolve()
MODEL = "tests/golden/tiny_llama"
CLIFF = [
    "--config=experiments/configs/residency_cliff.py",
    f"--config.model={MODEL}",
    "--config.layers=()",
    "--config.thin=()",
    "--config.fresh_host=False",
    "--config.rounds=1",
    "--config.samples=2",
]
HUMANEVAL = [
    "--config=experiments/configs/humaneval.py",
    f"--config.model={MODEL}",
    "--config.dtypes=('float32',)",
    "--config.tasks=2",
    "--config.max_tokens=4",
]

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def command(workdir: Path | str, *flags: str) -> list[str]:
    return [sys.executable, "-m", "experiments.run", f"--workdir={workdir}", *flags]


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    def run(workdir: Path | str, *flags: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command(workdir, *flags),
            capture_output=True,
            text=True,
            timeout=HANGS_S,
            env=environment,
            check=False,
        )

    return run


@pytest.fixture
def run_quickly(environment: dict[str, str]) -> Run:
    def run(workdir: Path | str, *flags: str) -> "subprocess.CompletedProcess[str]":
        return run_command(
            "experiments.run", f"--workdir={workdir}", *flags, environment=environment
        )

    return run


def rows(workdir: Path) -> list[dict[str, Any]]:
    path = workdir / "results.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


@pytest.mark.newest
def test_cliff_measures_reports_and_goes_on(run: Run, run_quickly: Run, tmp_path: Path) -> None:
    small = [*CLIFF, "--config.dtypes=('float32',)"]
    done = run_quickly(tmp_path, *small, "--config.layers=(1,)")
    assert done.returncode == 0, done.stderr
    first = rows(tmp_path)
    assert [r["measured"]["placement"] for r in first] == [
        "on-chip",
        "off-chip",
        "attention-on-chip",
    ]
    done = run(tmp_path, *small, "--config.layers=(1,2)")
    assert done.returncode == 0, done.stderr
    every = rows(tmp_path)
    assert every[:3] == first
    assert [(r["measured"]["layers"], r["measured"]["placement"]) for r in every[3:]] == [
        (2, "on-chip"),
        (2, "off-chip"),
        (2, "attention-on-chip"),
        (2, "half-on-chip"),
    ]
    two_layers = {r["measured"]["placement"]: r["measured"] for r in every[3:]}
    whole = two_layers["on-chip"]
    assert (
        whole["on_chip_bytes"] == whole["weight_bytes"] == 2 * first[0]["measured"]["weight_bytes"]
    )
    assert whole["excess_bytes"] == whole["weight_bytes"] - 40_000
    assert whole["copies"] == 1
    assert two_layers["off-chip"]["on_chip_bytes"] == 0
    assert two_layers["off-chip"]["copies"] > 1
    assert two_layers["half-on-chip"]["on_chip_bytes"] == whole["weight_bytes"] // 2
    for row in every:
        latency = row["measured"]["latency"]
        assert 0 < latency["p10_s"] <= latency["median_s"] <= latency["p90_s"] <= latency["p99_s"]
        assert latency["count"] >= 2
        assert row["machine"]["backend"] == "cpu"
        # A step, 10 µs, and its kernels of 2 µs each take at least as much.
        assert row["measured"]["predicted_s"] > 12e-6
        error = row["measured"]["predicted_s"] / latency["median_s"] - 1
        assert row["measured"]["prediction_error"] == pytest.approx(error)
        assert row["versions"]["jax"]
        assert set(row["git"]) == {"commit", "dirty"}
        assert row["config"]["model"] == MODEL
    assert "Weights in llc against weights in dram" in done.stdout
    assert "What emu.host() measured of this machine" in done.stdout
    assert "Measured against what emu.predict says of emu.host()" in done.stdout
    assert str(tmp_path / "report.html") in done.stdout
    page = (tmp_path / "report.html").read_text()
    assert "llc against dram by rotation" in page
    assert (tmp_path / "cliff.png").read_bytes().startswith(b"\x89PNG")


def test_humaneval_by_both_pairs(run_quickly: Run, tmp_path: Path) -> None:
    done = run_quickly(tmp_path, *HUMANEVAL)
    assert done.returncode == 0, done.stderr
    found = rows(tmp_path)
    assert [(r["measured"]["task"], r["measured"]["placement"]) for r in found] == [
        (task, placement)
        for task in ("HumanEval/0", "HumanEval/1")
        for placement in ("off-chip", "on-chip")
    ]
    for row in found:
        measured = row["measured"]
        assert measured["new_tokens"] == 4
        assert measured["ttft"]["count"] == 1
        assert measured["itl"]["count"] + measured["itl"]["disturbed_count"] >= 3
        assert measured["tpot_s"] > 0
    other = run_quickly(tmp_path, *HUMANEVAL, "--config.pair=memory-kind", "--config.tasks=1")
    assert other.returncode == 0, other.stderr
    assert len(rows(tmp_path)) == 6
    assert "device" in other.stdout or "pinned_host" in other.stdout
    page = (tmp_path / "report.html").read_text()
    assert "device against pinned_host by memory-kind" in page
    assert "on a CPU the memory kinds are one memory" in page


def test_rules_in_the_config(run: Run, run_quickly: Run, tmp_path: Path) -> None:
    flags = [*CLIFF, "--config.dtypes=('int8',)", "--config.layers=(2,)"]
    flags.append("--config.placements=('rules',)")
    rules = "--config.rules=(('layers/*/mlp/*/kernel','on-chip'),('**','off-chip'))"
    more = ["--profile", "--device=cpu", "--config.device_means=True"]
    done = run(tmp_path, *flags, rules, *more)
    assert done.returncode == 0, done.stderr
    assert "Every placement that was measured" in done.stdout
    assert "A step called from Python, and one of many in one program" in done.stdout
    (trace,) = (tmp_path / "profile").rglob("*.trace.json.gz")  # for ui.perfetto.dev
    assert str(trace) in done.stdout
    with gzip.open(trace) as file:
        events = json.load(file)["traceEvents"]
    assert any("fusion" in event.get("name", "") for event in events)  # what XLA ran
    assert not any(event.get("name", "").startswith("$") for event in events)  # and no Python
    assert "p99 of all" in done.stdout
    (row,) = rows(tmp_path)
    assert 0 < row["measured"]["on_chip_bytes"] < row["measured"]["weight_bytes"]
    assert 0 < row["measured"]["device_mean_s"] < 1
    unmatched = run_quickly(
        tmp_path, *flags, "--config.rules=(('nothing/**','on-chip'),('**','off-chip'))"
    )
    assert_refused(unmatched, "rule 'nothing/**' -> 'on-chip' matches no leaf")
    uncovered = run_quickly(tmp_path, *flags, "--config.rules=(('layers/*/mlp/**','on-chip'),)")
    assert_refused(uncovered, "no rule covers layers/0/attention")
    assert rows(tmp_path) == [row]


def assert_refused(done: "subprocess.CompletedProcess[str]", message: str) -> None:
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert lines[-1].startswith("error: ")
    assert message in lines[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([*CLIFF, "--config.modle=x"], "there is no config.modle: did you mean config.model?"),
        ([*CLIFF, "--config.rounds=many"], "--config.rounds=many: invalid literal for int()"),
        ([*CLIFF, "--config.layers=(1,9)"], "has 1 to 2 layers, not 9"),
        ([*CLIFF, "--config.model=not/there"], "not/there"),
        ([*CLIFF, "--config.pair=persistent-kernel"], "no pair 'persistent-kernel': it has rot"),
        (
            [*HUMANEVAL, "--config.placements=('rules',)", "--config.rules=(('**','hbm'),)"],
            "rule '**' -> 'hbm': there is no such memory here by rotation",
        ),
        ([*CLIFF, "--config.context=100000000000"], "config.context is 100000000000, and the"),
        ([*HUMANEVAL, "--config.context=64"], "config.context is 64: raise it"),
        ([], "give --config=experiments/configs/quickstart.py"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_measured(
    environment: dict[str, str], tmp_path: Path, flags: list[str], message: str
) -> None:
    done = run_command(
        "experiments.run",
        f"--workdir={tmp_path / 'results'}",
        *flags,
        # Nothing there says what the machine is: measuring it would be told of.
        environment={**environment, "XDG_CACHE_HOME": str(tmp_path / "empty")},
    )
    assert_refused(done, message)
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "results").exists()


def test_a_workdir_that_cannot_be_written_is_one_line(run_quickly: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert_refused(
        run_quickly(tmp_path / "file", *CLIFF), "file cannot be written to: it is no folder"
    )
    refused = "workdir /proc/nowhere cannot be written to: No such file or directory"
    assert_refused(run_quickly("/proc/nowhere", *CLIFF), refused)


def test_rows_of_other_weights_at_the_same_path_are_measured_again(
    run_quickly: Run, tmp_path: Path
) -> None:
    model, workdir = tmp_path / "model", tmp_path / "results"
    shutil.copytree(MODEL, model)
    flags = [*CLIFF, "--config.dtypes=('float32',)", "--config.layers=(1,)"]
    flags += [f"--config.model={model}", "--config.placements=('on-chip',)"]
    assert run_quickly(workdir, *flags).returncode == 0
    (first,) = rows(workdir)
    again = run_quickly(workdir, *flags)
    assert "measured again" not in again.stderr
    assert rows(workdir) == [first]
    weights = model / "model-00001-of-00003.safetensors"
    data, times = bytearray(weights.read_bytes()), weights.stat()
    data[-1] ^= 1  # a bit of one weight, and the times as they were
    weights.write_bytes(data)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    changed = run_quickly(workdir, *flags)
    assert changed.returncode == 0, changed.stderr
    assert "1 finished rows do not count and are measured again: weights " in changed.stderr
    before, after = (row["key"].split(" @ ") for row in rows(workdir))
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_results_of_another_machine_are_not_mixed_in(run_quickly: Run, tmp_path: Path) -> None:
    row: dict[str, Any] = {"schema": 1, "key": "old"}
    row |= {"experiment": "residency_cliff", "finished": "long ago"}
    row |= {part: {"some": 1} for part in PARTS}
    row["machine"] = {"processor": "abacus", "cores": 10}
    (tmp_path / "results.jsonl").write_text(json.dumps(row) + "\n")
    assert_refused(
        run_quickly(tmp_path, *CLIFF), "another machine or set-up (processor abacus, cores 10): use"
    )


def test_quickstart_answers_the_question_and_the_notebook_reads_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run(
        tmp_path,
        "--config=experiments/configs/quickstart.py",
        f"--config.model={MODEL}",
        "--config.cliff.fresh_host=False",
        "--config.cliff.rounds=1",
        "--config.cliff.samples=2",
        "--config.cliff.dtypes=('float32',)",
        "--config.humaneval.dtypes=('float32',)",
        "--config.humaneval.tasks=1",
        "--config.humaneval.max_tokens=4",
    )
    assert done.returncode == 0, done.stderr
    answer = " ".join(done.stdout.split())
    assert f"On this machine one token of {MODEL} takes" in answer
    assert "with its weights in dram." in answer
    assert "The cliff, where half of the advantage is gone, lies" in answer
    for name in ("report.html", "cliff.png", "humaneval.png", "results.jsonl"):
        assert str(tmp_path / name) in done.stdout
    assert {r["experiment"] for r in rows(tmp_path)} == {"residency_cliff", "humaneval"}
    monkeypatch.setenv("EMU_RESULTS", str(tmp_path / "results.jsonl"))
    shown = executed_notebook(tmp_path)
    assert shown.count("image/png") == 2  # HumanEval and the cliff
    assert "half-on-chip" in shown
    assert "TPOT_ms" in shown


def test_the_notebook_opens_on_the_example_that_it_ships_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EMU_RESULTS", raising=False)
    shown = executed_notebook(tmp_path)
    assert shown.count("image/png") == 2
    assert "half-on-chip" in shown
    assert "TPOT_ms" in shown


def executed_notebook(folder: Path, path: Path = NOTEBOOK) -> str:
    """The outputs of a notebook, run by this interpreter and no other kernel."""
    kernel = folder / "jupyter" / "kernels" / "this-python"
    kernel.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": "this Python", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    notebook = jupytext.read(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
        patch.setenv("JUPYTER_RUNTIME_DIR", str(folder / "runtime"))
        patch.setenv("JUPYTER_PLATFORM_DIRS", "1")
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        nbclient.NotebookClient(
            notebook,
            timeout=HANGS_S,
            startup_timeout=HANGS_S,
            kernel_name="this-python",
            resources={"metadata": {"path": str(path.parent)}},
        ).execute()
    return json.dumps([cell.get("outputs", []) for cell in notebook.cells])


def test_killed_again_and_again_nothing_is_lost_or_doubled(
    environment: dict[str, str], tmp_path: Path
) -> None:
    flags = [*CLIFF, "--config.dtypes=('float32','int8')"]
    rng = random.Random(0)
    kept: list[dict[str, Any]] = []
    for number in range(4):
        process = subprocess.Popen(
            command(tmp_path, *flags),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        if number < 3:
            wait_until(lambda: len(rows(tmp_path)) > len(kept) or process.poll() is not None)  # noqa: B023
            if number == 1:  # while one run is at it, a second one is refused
                second = subprocess.run(
                    command(tmp_path, *flags),
                    capture_output=True,
                    text=True,
                    env=environment,
                    timeout=HANGS_S,
                    check=False,
                )
                if process.poll() is None:
                    assert_refused(second, "is being written by another run")
            time.sleep(rng.random() * 0.3)
            process.send_signal(signal.SIGTERM if number == 2 else signal.SIGKILL)
        _, errors = process.communicate(timeout=HANGS_S)
        if number == 2 and process.returncode != 0:
            assert process.returncode == 128 + signal.SIGTERM, errors
            assert "the same command goes on from there" in errors
            assert "Traceback" not in errors
        now = rows(tmp_path)
        assert now[: len(kept)] == kept
        kept = now
    assert process.returncode == 0, errors
    keys = [row["key"] for row in kept]
    assert len(keys) == len(set(keys)) == 14  # 2 dtypes, 3 placements of 1 layer and 4 of 2
    assert (tmp_path / "report.html").exists()
