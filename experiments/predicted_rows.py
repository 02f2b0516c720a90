"""Predictions as rows that survive a kill, and that another version of the code does not reuse.

A row's key holds all that was asked and a hash of everything that decides the answer: the source
and the data of `emu`, of the models and of the predictions.
"""

import contextlib
import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import emu
from experiments.deployment import Deployment
from experiments.prediction import parts_of
from experiments.progress import progress
from experiments.results import Results, Row
from experiments.rows import Origin, key, row, tell_redone
from experiments.settings import as_dict
from experiments.step_times import StepTimes, as_row, of_row, step_times

NAME = "step_times"
_DECIDING = (
    "cases", "deployment", "placing", "prediction", "ranges", "served", "step_times",
    "steps_traced", "stored_as", "usual_split",
)  # fmt: skip
_ROOT = Path(__file__).resolve().parent.parent


@functools.cache
def code(beside: tuple[str, ...] = ()) -> Origin:
    """What decides a prediction, besides what was asked; `beside`: other files of experiments/."""
    files = [
        *(_ROOT / "emu").rglob("*.py"),
        *(_ROOT / "emu").rglob("*.toml"),
        *(_ROOT / "models").rglob("*.py"),
        *(_ROOT / "models").rglob("*.toml"),
        *((_ROOT / "experiments/workloads").glob("*.toml") if beside else ()),
        *(_ROOT / f"experiments/{name}.py" for name in (*_DECIDING, *beside)),
    ]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.relative_to(_ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return {"code": digest.hexdigest()[:16]}


def table_key(of: Deployment) -> str:
    """The key of a deployment's row."""
    fields = as_dict(of)
    flat = {
        **fields["served"],
        **{f"chip_{n}": v for n, v in fields["hardware"].items() if not n.startswith("price")},
        "window": fields["window_tokens"],
        "drafted": fields["drafted"],
    }
    return key(NAME, code(), **{name: str(v).replace(" ", "_") for name, v in flat.items()})


def tables(asked: Iterable[Deployment], results: Results) -> tuple[str, ...]:
    """Makes the tables that are not in `results`; returns the keys of all their rows, in order.

    A model that a system cannot hold has a row too, which says why (`refused`).

    Raises as `experiments.step_times.step_times`, but for CapacityError.
    """
    deployments = tuple(asked)
    keys = tuple(table_key(of) for of in deployments)
    todo = [k for k in dict.fromkeys(keys) if k not in results]
    tell_redone(results, todo)
    for of, name in zip(deployments, keys, strict=True):
        if name in todo:
            _check(of)  # what cannot be asked is told before anything is computed
    with progress(len(todo), "step times", "table") as bar:
        for of, name in zip(deployments, keys, strict=True):
            if name not in results:
                results.append(row(name, NAME, of, _answer(of)))
                bar.update()
    return keys


def _check(of: Deployment) -> None:
    """Raises for all but a model that the system cannot hold. The traces that it takes are kept."""
    with contextlib.suppress(emu.CapacityError):
        parts_of(of.question)


def _answer(of: Deployment) -> dict[str, Any]:
    try:
        return {"times": as_row(step_times(of))}
    except emu.CapacityError as error:
        return {"refused": str(error)}


def table(row: Row) -> StepTimes | str:
    """The table in a row, or why there is none."""
    measured = row["measured"]
    return str(measured["refused"]) if "refused" in measured else of_row(measured["times"])
