"""Decode steps of a served model as grids for `emu.design`, and rows that a kill does not lose."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import emu
from emu.design import WorkGrid
from emu.design.executors import check_executor, in_ray
from experiments.deployment import Served
from experiments.errors import ExperimentError
from experiments.predicted_rows import code
from experiments.progress import progress
from experiments.results import Results
from experiments.rows import key, row, tell_redone
from experiments.steps_traced import decode_work

__all__ = ["check_steps", "decode_grid", "rows_of"]


def check_steps(batch: tuple[int, ...], context: int) -> None:
    """Raises ExperimentError where there are no such steps."""
    if not batch or list(batch) != sorted(set(batch)) or batch[0] < 1:
        raise ExperimentError(f"batch must be rising numbers of at least 1, not {batch}")
    if context < 0:
        raise ExperimentError(f"context must be at least 0 tokens, not {context}")


def decode_grid(served: Served, batch: tuple[int, ...], context: tuple[int, ...]) -> WorkGrid:
    """One decode step of a model at every batch and context."""

    def work(batch: int, context: int) -> emu.Work:
        return decode_work(served.model, served.weights, served.kv, batch=batch, context=context)

    return WorkGrid(work=work, batch=batch, context=context)


def rows_of(
    name: str,
    asked: Iterable[Mapping[str, Any]],
    settings: Any,
    answer: Callable[[Mapping[str, Any]], dict[str, Any]],
    results: Results,
) -> tuple[str, ...]:
    """A row for each thing asked, made if it is not there; the keys of all, in order.

    What cannot be has a row too, which says why (`refused`). `settings.executor` "threads" answers
    one after the other, "ray" on a cluster's workers; rows and their order are the same.
    """
    questions = list(asked)
    origin = code((f"design/{name}", "design/stepped"))
    keys = [key(name, origin, **{n: _word(v) for n, v in one.items()}) for one in questions]
    todo = {k: one for k, one in zip(keys, questions, strict=True) if k not in results}
    tell_redone(results, todo)

    def answered(wanted: str) -> dict[str, Any]:
        try:
            return answer(todo[wanted])
        except emu.EmuError as error:
            return {"refused": str(error)}

    check_executor(settings.executor)
    one_by_one = ((wanted, answered(wanted)) for wanted in todo)
    answers = in_ray(answered, todo) if settings.executor == "ray" else one_by_one
    with progress(len(todo), name, "row") as bar:
        for wanted, found in answers:
            results.append(row(wanted, name, settings, found))
            bar.update()
    return tuple(keys)


def _word(value: Any) -> str:
    return str(value).replace(" ", "_")
