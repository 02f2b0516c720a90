"""Published decode figures as questions: what a row of a case file measured, predicted.

A row's figure is milliseconds between two tokens of one user. Its `metric` says what else is in it
beside decoding: in `latency/n` the prefills of the whole batch, over the tokens that follow; under
load (`loaded`) those of the other sequences, which are admitted while one is decoded.
"""

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import emu
from experiments.errors import ExperimentError
from experiments.prediction import Part, chunk_placed, parts_of, step_seconds, ttft_seconds
from experiments.question import Question
from models.errors import ModelError
from models.zoo import architecture

FIELDS = (
    "id", "chip", "chips", "model", "weights", "kv", "batch", "context", "input_tokens",
    "output_tokens", "metric", "tensor", "pipeline", "data", "expert", "stack", "tokens_per_step",
    "ms_per_token", "tier", "source",
)  # fmt: skip
METRICS = ("itl", "tpot", "latency/n", "loaded")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One row; what the file leaves empty is None."""

    id: str
    question: Question
    metric: str
    input_tokens: int | None
    output_tokens: int | None
    measured_s: float
    tier: int
    row: dict[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placed:
    """A case, traced and placed: its time on any system of other numbers is a matter of the clock.

    `chunks` of its prompt are placed when they are first asked for.
    """

    case: Case
    parts: tuple[Part, ...]
    chunks: dict[tuple[int, int], tuple[emu.Work, emu.Placement]] = dataclasses.field(
        default_factory=dict
    )

    @property
    def system(self) -> emu.System:
        """The system that it was placed on."""
        return self.parts[0].placement.system

    def seconds(self, system: emu.System | None = None) -> float:
        """Seconds between two tokens of one user."""
        system = self.system if system is None else system
        case, asked = self.case, self.case.question
        step = step_seconds(self.parts, system)
        prefills = {"loaded": asked.batch - 1, "latency/n": asked.batch}.get(case.metric, 0)
        if prefills and case.input_tokens and case.output_tokens:
            step += prefills * self._prefill_s(system) / asked.data / case.output_tokens
        return step / asked.tokens_per_step

    def _prefill_s(self, system: emu.System) -> float:
        stack = system.software
        busy = dataclasses.replace(system, stack=prefilling(stack))
        placement = dataclasses.replace(self.parts[0].placement, system=busy)
        asked = dataclasses.replace(self.case.question, prompt=self.case.input_tokens)
        return ttft_seconds(asked, placement, self._chunk_s)

    def _chunk_s(self, question: Question, system: emu.System, context: int, tokens: int) -> float:
        if (context, tokens) not in self.chunks:
            self.chunks[context, tokens] = chunk_placed(question, system, context, tokens)
        work, placement = self.chunks[context, tokens]
        return float(emu.predict(work, system, placement).seconds)


def place(case: Case) -> Placed:
    """Raises EmuError, ModelError or ExperimentError where it cannot be done."""
    return Placed(case=case, parts=parts_of(case.question))


def read_cases(path: Path | str) -> tuple[list[Case], dict[str, str]]:
    """The rows of a case file, and why others cannot be read, by id.

    Raises ExperimentError for a file that is not one.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ExperimentError(f"{path}: cannot be read ({error})") from error
    missing = [name for name in FIELDS[:-1] if not rows or name not in rows[0]]
    if missing:
        raise ExperimentError(
            f"{path}: no column {missing[0]!r}; a case file has {', '.join(FIELDS)}"
        )
    cases, refused = [], {}
    for number, row in enumerate(rows, start=2):
        try:
            cases.append(_case(row))
        except (ExperimentError, ModelError, emu.EmuError, ValueError) as error:
            refused[row["id"] or f"line {number}"] = str(error)
    return cases, refused


def _case(row: dict[str, str]) -> Case:
    def count(name: str) -> int | None:
        return int(float(row[name])) if (row[name] or "").strip() else None

    if row["metric"] not in METRICS:
        raise ExperimentError(f"metric {row['metric']!r} is none of {', '.join(METRICS)}")
    stack = emu.stack(row["stack"])
    kept = float(row["tokens_per_step"] or 1.0)
    given, asked = count("input_tokens"), count("output_tokens")
    context = count("context")
    if stack.reads_allocated and given and asked:
        context = given + asked
    if context is None:
        raise ExperimentError("no context is given")
    # A mean over requests that end at the model's limit, or rounding, may lie a little above it.
    context = min(context, architecture(row["model"]).config.max_context - 8)
    question = Question(
        model=row["model"],
        chip=row["chip"],
        weights=row["weights"],
        kv=row["kv"],
        stack=row["stack"],
        chips=count("chips"),
        tensor=count("tensor"),
        pipeline=count("pipeline"),
        expert=count("expert"),
        data=count("data") or 1,
        batch=count("batch") or 1,
        context=context,
        tokens_per_step=kept,
        draft_tokens=None if kept == 1 else _drafts(kept),
    )
    milliseconds = float(row["ms_per_token"]) if row["ms_per_token"] else float("nan")
    return Case(
        id=row["id"],
        question=question,
        metric=row["metric"],
        input_tokens=given,
        output_tokens=asked,
        measured_s=milliseconds / 1e3,
        tier=count("tier") or 3,
        row=row,
    )


def _drafts(kept: float) -> int:
    """How many tokens were proposed, where only how many were kept is said: taken to be three."""
    return max(3, -(-int(kept * 100) // 100))


def prefilling(stack: emu.Stack) -> emu.Stack:
    """The stack as it prefills: between decode steps, without what those pay once a step."""
    zero = dataclasses.replace(stack.per_step_s, value=0.0, low=None, high=None)
    return dataclasses.replace(
        stack, compute_share=stack.prefill_share, per_step_s=zero, per_sequence_s=zero
    )


def errors(predicted_s: Sequence[float], cases: Sequence[Case]) -> list[float]:
    """predicted ÷ measured − 1."""
    return [p / c.measured_s - 1 for p, c in zip(predicted_s, cases, strict=True)]
