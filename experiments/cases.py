"""Published decode figures as questions: what a row of a case file measured, predicted.

A row's figure is milliseconds between two tokens of one user. Its `metric` says what else is in it
beside decoding: in `latency/n` the prefills of the whole batch, over the tokens that follow; under
load (`loaded`) those of the other sequences, which are admitted while one is decoded. Of more
sequences than memory holds a server runs as many as it does, and the others wait: for their first
token, so that their waiting is in `latency/n` alone, where such a row is refused.
"""

import csv
import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import emu
from experiments.errors import ExperimentError
from experiments.prediction import Part, chunk_placed, parts_of, prefill_chunks
from experiments.question import Question
from models.errors import ModelError
from models.zoo import architecture

FIELDS = (
    "id", "chip", "chips", "model", "weights", "kv", "batch", "context", "input_tokens",
    "output_tokens", "metric", "tensor", "pipeline", "data", "expert", "stack", "tokens_per_step",
    "ms_per_token", "tier", "source",
)  # fmt: skip
METRICS = ("itl", "tpot", "latency/n", "loaded")
_BEYOND = 2  # times what a model takes: a row with more tokens is not of this model


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


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Term:
    """A step that is part of a case's time, so many times."""

    times: float
    work: emu.Work
    placement: emu.Placement
    prefills: bool = False

    def seconds(self, system: emu.System) -> Any:
        """Seconds of one such step on a system of other numbers, which may be traced."""
        if self.prefills:
            system = dataclasses.replace(system, stack=prefilling(system.software))
        return emu.predict(self.work, system, self.placement).seconds


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Placed:
    """A case, traced and placed: its time on any system of other numbers is a matter of the clock.

    The time between two tokens of one user is the sum of its terms.
    """

    case: Case
    system: emu.System
    terms: tuple[Term, ...]

    def seconds(self, system: emu.System | None = None) -> float:
        """Seconds between two tokens of one user."""
        system = self.system if system is None else system
        return sum(term.times * float(term.seconds(system)) for term in self.terms)


def place(case: Case) -> Placed:
    """Raises EmuError, ModelError or ExperimentError where it cannot be done."""
    asked, parts = _running(case)
    system = parts[0].placement.system
    terms = [
        Term(times=part.times / asked.tokens_per_step, work=part.work, placement=part.placement)
        for part in parts
    ]
    batch = asked.batch // asked.data  # replicas prefill beside each other
    prefills = {"loaded": batch - 1, "latency/n": batch}.get(case.metric, 0)
    if prefills and case.input_tokens and case.output_tokens:
        # As many for a user's tokens, however many of them a step yields.
        each = prefills / case.output_tokens
        prompt = dataclasses.replace(asked, prompt=case.input_tokens)
        for times, context, tokens in prefill_chunks(prompt):
            work, placement = chunk_placed(prompt, system, context, tokens)
            terms.append(Term(times=each * times, work=work, placement=placement, prefills=True))
    return Placed(case=case, system=system, terms=tuple(terms))


def _running(case: Case) -> tuple[Question, tuple[Part, ...]]:
    """The question of as many of its sequences as memory holds at once, and its parts."""
    asked = case.question
    try:
        return asked, parts_of(asked)
    except emu.CapacityError:
        if case.metric == "latency/n" or asked.batch == asked.data:
            raise

    def of_each(sequences: int) -> tuple[Question, tuple[Part, ...]]:
        fewer = dataclasses.replace(asked, batch=sequences * asked.data)
        return fewer, parts_of(fewer)

    fits, too_many, found = 1, asked.batch // asked.data, of_each(1)
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        try:
            fits, found = middle, of_each(middle)
        except emu.CapacityError:
            too_many = middle
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a case file: a case, or why it is none."""

    given: dict[str, str]
    case: Case | None
    why: str = ""


def read_rows(path: Path | str) -> list[Row]:
    """The rows of a case file, in their order. Columns beside those that are known are kept.

    Raises ExperimentError for a file that is not one.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            table, columns = list(reader), reader.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ExperimentError(f"{path}: cannot be read ({error})") from error
    missing = [name for name in FIELDS[:-1] if name not in columns]
    if missing:
        raise ExperimentError(
            f"{path}: no column {missing[0]!r}; a case file has {', '.join(FIELDS)}"
        )
    if not table:
        raise ExperimentError(f"{path}: no rows below the columns' names")
    rows = []
    for given in table:
        row = {name: value for name, value in given.items() if name is not None}
        try:
            if len(row) < len(given):
                raise ExperimentError("the row has more cells than the file has columns")
            rows.append(Row(given=row, case=_case(row)))
        except (ExperimentError, ModelError, emu.EmuError, ValueError) as error:
            rows.append(Row(given=row, case=None, why=str(error)))
    return rows


def read_cases(path: Path | str) -> list[Case]:
    """The rows of a case file that are cases."""
    return [row.case for row in read_rows(path) if row.case is not None]


def _case(row: dict[str, str]) -> Case:
    def count(name: str) -> int | None:
        text = row[name].strip()
        if not text:
            return None
        number = float(text)
        if not (number >= 0 and number == int(number)):
            raise ExperimentError(f"{name} is a whole number, not {text}")
        return int(number)

    if row["metric"] not in METRICS:
        raise ExperimentError(f"metric {row['metric']!r} is none of {', '.join(METRICS)}")
    stack = emu.stack(row["stack"])
    kept = float(row["tokens_per_step"] or 1.0)
    drafted = 0 if kept == 1 else _drafts(kept)
    model = _model(row["model"])
    most = architecture(model).config.max_context
    given, asked = count("input_tokens"), count("output_tokens")
    context = count("context")
    if given is not None:
        given = _at_most(most, given, f"a prompt for {model}")
    if given and asked and (stack.reads_allocated or context is None):
        context = given + (asked if stack.reads_allocated else asked // 2)
    if context is None:
        raise ExperimentError("no context is given")
    # A mean over requests that end at the model's limit, or rounding, may lie a little above.
    last = most - max(8, 1 + drafted)
    context = _at_most(last, context, f"a context for {model}")
    data = count("data") or 1
    question = Question(
        model=model,
        chip=row["chip"],
        weights=row["weights"],
        kv=row["kv"],
        stack=row["stack"],
        chips=count("chips"),
        tensor=count("tensor"),
        pipeline=count("pipeline"),
        expert=count("expert"),
        data=data,
        # Of replicas with unequal shares the fullest is the slowest.
        batch=data * -(-(count("batch") or 1) // data),
        context=context,
        tokens_per_step=kept,
        draft_tokens=drafted or None,
    )
    milliseconds = float(row["ms_per_token"] or "nan")
    if milliseconds <= 0:
        raise ExperimentError(f"ms_per_token is above 0, not {row['ms_per_token']}")
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


def _at_most(most: int, tokens: int, what: str) -> int:
    """The tokens, or the most of them that there can be, if they are not far beyond it."""
    if tokens > _BEYOND * most:
        raise ExperimentError(
            f"{what} has at most {most:,} tokens, and {tokens:,} are more than {_BEYOND} times that"
        )
    return min(tokens, most)


def _model(written: str) -> str:
    """A model's name as the zoo has it; of several that are alike (`a / b`, `a (as b)`) one."""
    return re.split(r"\s+[/(]", written.strip().lower())[0]


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
