"""`make bench`: the project's benchmarks, one JSON line each on standard output.

Each line has `name`, `value`, `unit`, `against`, `ratio` (value ÷ what it stands against, or how
many times as fast), `samples`, and where a ratio was measured over rounds its spread and how many
rounds others disturbed. Flags: `--rounds`, `--texts`, `--only` (groups, of `GROUPS`).
"""

import functools
import json
from collections.abc import Callable, Iterator
from typing import Any

from absl import flags

import emu
import kernels
from experiments import provenance
from experiments.benchmarks import (
    decoding,
    design,
    llamacpp,
    precision,
    residency,
    serving,
    tracing,
)
from experiments.benchmarks.contest import Outcome, contest
from experiments.errors import ExperimentError
from experiments.launcher import launch
from experiments.workloads import humaneval
from models import named
from models.checkpoint import Checkpoint, open_checkpoint
from models.steps import Weights
from models.weights import load_weights, reads_in_place

ROUNDS = flags.DEFINE_integer(
    "rounds", 12, "rounds in which all contestants take their turn", lower_bound=1
)
TEXTS = flags.DEFINE_integer("texts", humaneval.TASKS, "HumanEval texts for top-1 agreement")
ONLY = flags.DEFINE_list("only", [], "run only these groups")

DTYPES = ("float32", "bfloat16", "int8")
PEERS = {"float32": "F32", "bfloat16": "BF16", "int8": "Q8_0"}
MODEL = "smollm2-135m-instruct"

Row = dict[str, Any]


@functools.cache
def _checkpoint() -> Checkpoint:
    return open_checkpoint(named.resolve(MODEL))


@functools.cache
def _weights() -> dict[str, Weights]:
    return {dtype: load_weights(_checkpoint(), dtype) for dtype in DTYPES}


def decode_rows() -> Iterator[Row]:
    """Tokens per second of every dtype, against the read limit, float32, and llama.cpp."""
    checkpoint = _checkpoint()
    weights = {
        dtype: load_weights(checkpoint, dtype, stacked=reads_in_place(checkpoint.config, dtype))
        for dtype in DTYPES
    }
    prompt = checkpoint.tokenizer.encode(humaneval.tasks(1)[0].prompt)
    contestants = [
        decoding.decoder(dtype, checkpoint.config, w, prompt) for dtype, w in weights.items()
    ]
    sizes = {dtype: decoding.weight_bytes(w) for dtype, w in weights.items()}
    if kernels.native():
        contestants += [decoding.limit(f"read {d}", size) for d, size in sizes.items()]
    if llamacpp.installed():
        folder = named.cache_folder() / "bench"
        for kind in PEERS.values():
            path = llamacpp.requantised(named.resolve(MODEL), kind, folder)
            threads = provenance.cores()
            contestants.append(llamacpp.decoder(f"llama.cpp {kind}", path, prompt, threads))
    outcome = contest(contestants, ROUNDS.value, "decode")
    for dtype, size in sizes.items():
        yield _speed(outcome, f"decode_{dtype}_vs_read_limit", dtype, f"read {dtype}", size)
    for dtype in DTYPES[1:]:
        yield _speed(outcome, f"decode_{dtype}_vs_float32", dtype, "float32")
    for dtype, kind in PEERS.items():
        yield _speed(outcome, f"decode_{dtype}_vs_llamacpp", dtype, f"llama.cpp {kind}")


def residency_rows() -> Iterator[Row]:
    """On chip against off chip, against `emu.host()`, and mixed against its parts."""
    yield from residency.rows(residency.measured(MODEL, DTYPES))


def precision_rows() -> Iterator[Row]:
    """Top-1 agreement with float32 over HumanEval prompts with their canonical solutions."""
    checkpoint, weights = _checkpoint(), _weights()
    texts = [
        checkpoint.tokenizer.encode(t.prompt + t.solution) for t in humaneval.tasks(TEXTS.value)
    ]
    narrow = {dtype: weights[dtype] for dtype in DTYPES[1:]}
    shares, tokens = precision.top1_agreement(checkpoint.config, weights["float32"], narrow, texts)
    for dtype, share in shares.items():
        yield {
            "name": f"top1_agreement_{dtype}",
            "value": share,
            "unit": "share of tokens",
            "against": "float32",
            "ratio": share,
            "samples": tokens,
        }


def _speed(outcome: Outcome, name: str, ours: str, against: str, size: int | None = None) -> Row:
    """One row: tokens per second, or bytes per second where a size is given."""
    per_call, unit = (size / 1e9, "GB/s") if size else (1.0, "tokens/s")
    row: Row = {"name": name, "value": per_call / outcome.seconds(ours), "unit": unit}
    if against not in outcome.turns:
        return {**row, "against": f"{against}: not run", "ratio": None, "samples": 0}
    ratio = outcome.speedup(ours, against)
    return {
        **row,
        "against": against,
        "against_value": per_call / outcome.seconds(against),
        "ratio": ratio.median,
        "ratio_p10": ratio.p10,
        "ratio_p90": ratio.p90,
        "samples": outcome.samples(ours),
        "rounds": ratio.rounds,
        "disturbed_rounds": ratio.disturbed_rounds,
        "disturbed": ratio.disturbed_rounds > emu.MOST_DISTURBED * ratio.rounds,
        "p99_ms": outcome.p99_s(ours, calm=True) * 1e3,
        "p99_all_ms": outcome.p99_s(ours, calm=False) * 1e3,
    }


GROUPS: dict[str, Callable[[], Iterator[Row]]] = {
    "decode": decode_rows,
    "residency": residency_rows,
    "precision": precision_rows,
    "tracing": tracing.rows,
    "design": design.rows,
    "design-large": design.large,
    "serving": serving.rows,
}


def main() -> None:
    """Run the groups that were asked for, and print their rows as they come."""
    for group in ONLY.value:
        if group not in GROUPS:
            raise ExperimentError(f"--only={group}: the groups are {', '.join(GROUPS)}")
    for group, rows in GROUPS.items():
        if ONLY.value and group not in ONLY.value:
            continue
        for row in rows():
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    launch(main)
