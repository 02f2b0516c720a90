"""How long predictions take, and how much memory: of the largest models, again and again, and cold.

Each model is traced and predicted in fresh processes, so that nothing is in JAX's caches and the
most memory that was held is for this model alone:

    python -m experiments.benchmarks.tracing llama-3.1-405b     # one such process
"""

import dataclasses
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments.errors import ExperimentError

# By model: its weights, and chips among which it is split.
MODELS = {
    "llama-3.1-8b": ("bf16", 1),
    "llama-3.1-405b": ("fp8", 8),
    "deepseek-r1": ("fp8", 8),
}
CHIP = "h200"
STACKS = ("ideal", "jax-llm-examples")  # which fetch any number of kernels ahead, and one
RUNS = 5
WARM_CALLS = 1500
NEW_CALLS = 300  # each on a system of its own
# What users were promised.
MOST_S = 2.0
MOST_BYTES = 1e9
MOST_WARM_S = 200e-6
MOST_COLD_S = 4.0
COLD = ("--model=llama-3.1-70b", "--weights=fp8", "--chip=h100", "--context=2000", "--json")


def rows() -> Iterator[dict[str, Any]]:
    """Seconds and bytes of a first prediction, seconds of a warm one, and of the whole command.

    Warm is the same work, placement and system again (`predict_warm`), or a system whose bandwidth
    nobody has asked for before (`predict_new_system`).
    """
    warm: dict[str, list[float]] = {}
    for model in MODELS:
        runs = [_in_a_fresh_process(model) for _ in range(RUNS)]
        seconds = [run["seconds"] for run in runs]
        yield _row(f"trace_and_predict_{model}", seconds, "s", MOST_S, RUNS)
        most = [run["most_bytes"] / 1e6 for run in runs]
        yield _row(f"trace_and_predict_memory_{model}", most, "MB", MOST_BYTES / 1e6, RUNS)
        for stack in STACKS:
            for kind, calls in (("warm", WARM_CALLS), ("new_system", NEW_CALLS)):
                us = [run[f"{kind}_{stack}"] * 1e6 for run in runs]
                name = f"{stack}_{model}"
                yield _row(f"predict_{kind}_{name}", us, "us", MOST_WARM_S * 1e6, RUNS * calls)
                if kind == "warm":
                    warm[name] = us
    yield _slowest(warm)
    yield _row("predict_command_cold", [_cold() for _ in range(RUNS)], "s", MOST_COLD_S, RUNS)


def once(model: str) -> dict[str, float]:
    """Trace and predict one model in this process; then predict again with what was traced.

    Returns the seconds of the first prediction, from the model's name on, with modules imported;
    the most bytes that the process held, Python and JAX included; and, by stack, the median seconds
    of a prediction after the first, of the same system and of new ones.
    """
    import emu  # noqa: PLC0415 (imported here, before the clock starts)
    from experiments.steps_traced import decode_work  # noqa: PLC0415

    weights, chips = MODELS[model]
    start = time.perf_counter()
    work = decode_work(model, weights, "bf16", batch=1, context=2000)
    found: dict[str, float] = {}
    for stack in STACKS:
        system = emu.System(emu.chip(CHIP), chips=chips, tensor=chips, stack=stack)
        placement = emu.place(work, system, "off-chip")
        emu.predict(work, system, placement)
        if not found:
            found = {"seconds": time.perf_counter() - start, "most_bytes": float(_most_bytes())}
        new = [_with_bandwidth(system, 1.0 + i / 1e4) for i in range(1, NEW_CALLS + 1)]
        for kind, asked in (("warm", [system] * WARM_CALLS), ("new_system", new)):
            seconds = []
            for one in asked:
                start = time.perf_counter()
                emu.predict(work, one, placement)
                seconds.append(time.perf_counter() - start)
            found[f"{kind}_{stack}"] = float(np.median(seconds))
    return found


def _with_bandwidth(system: Any, times: float) -> Any:
    """The system with so many times the bandwidth of its last memory."""
    *faster, last = system.chip.memories
    rate = last.bandwidth_bytes_per_s
    rate = dataclasses.replace(rate, value=times * rate.value, low=None, high=None)
    last = dataclasses.replace(last, bandwidth_bytes_per_s=rate)
    chip = dataclasses.replace(system.chip, memories=(*faster, last))
    return dataclasses.replace(system, chip=chip)


def _most_bytes() -> int:
    """The most memory that this process ever held.

    On Linux getrusage also counts what the process that started this one held at that moment.
    """
    status = Path("/proc/self/status")
    if status.exists():
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else held * 1024  # kilobytes, but for macOS


def _in_a_fresh_process(model: str) -> dict[str, float]:
    out: dict[str, float] = json.loads(_run("experiments.benchmarks.tracing", model))
    return out


def _cold() -> float:
    start = time.perf_counter()
    _run("experiments.predict", *COLD)
    return time.perf_counter() - start


def _run(module: str, *arguments: str) -> str:
    command = [sys.executable, "-m", module, *arguments]
    # Nothing is computed on a device: one that is there would only take time to start.
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise ExperimentError(f"bench: {' '.join(command[1:])} failed: {last[0]}")
    return done.stdout


def _row(name: str, values: list[float], unit: str, most: float, samples: int) -> dict[str, Any]:
    """The median over processes, against the most that it may be."""
    value = float(np.median(values))
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "against": f"limit {most:g} {unit}",
        "against_value": most,
        "ratio": most / value,
        "value_min": min(values),
        "value_max": max(values),
        "samples": samples,
    }


def _slowest(warm: dict[str, list[float]]) -> dict[str, Any]:
    """The slowest case's row, with the medians of all beside it."""
    slowest = max(warm, key=lambda name: float(np.median(warm[name])))
    calls = len(warm[slowest]) * WARM_CALLS
    row = _row("predict_warm_slowest", warm[slowest], "us", MOST_WARM_S * 1e6, calls)
    medians = {name: float(np.median(us)) for name, us in warm.items()}
    return {**row, "case": slowest, "medians_us": medians}


if __name__ == "__main__":
    print(json.dumps(once(sys.argv[1])))
