"""Decode steps of a served model as grids for `emu.design`, and rows that a kill does not lose."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import emu
from emu.design import WorkGrid
from experiments.deployment import Served
from experiments.predicted_rows import code
from experiments.progress import progress
from experiments.results import Results
from experiments.rows import key, row, tell_redone
from experiments.steps_traced import decode_work

__all__ = ["decode_grid", "rows_of"]


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

    What cannot be has a row too, which says why (`refused`).
    """
    questions = list(asked)
    keys = [key(name, code(), **{n: _word(v) for n, v in one.items()}) for one in questions]
    todo = [k for k in keys if k not in results]
    tell_redone(results, todo)
    with progress(len(todo), name, "row") as bar:
        for one, wanted in zip(questions, keys, strict=True):
            if wanted in results:
                continue
            try:
                measured = answer(one)
            except emu.EmuError as error:
                measured = {"refused": str(error)}
            results.append(row(wanted, name, settings, measured))
            bar.update()
    return tuple(keys)


def _word(value: Any) -> str:
    return str(value).replace(" ", "_")
