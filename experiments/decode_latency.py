"""Time to first token and between tokens, over HumanEval, with weights placed by a policy.

Each task is one request, answered in each placement in turn, and one row: prefill of the prompt and
its first token, then greedy decode steps for as many tokens as the canonical solution has.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import emu
from emu.chips import Mechanism
from emu.report import Report
from experiments import decode_report, hosts, mesh, placements
from experiments.cliff import check_dtypes
from experiments.decode_summary import answered
from experiments.engine import engine
from experiments.errors import ExperimentError
from experiments.placements import Rules
from experiments.progress import progress
from experiments.requests import Request, requests, slots
from experiments.results import Results, Row
from experiments.rows import key, origin, row, tell_redone
from models.checkpoint import Checkpoint, open_checkpoint
from models.named import resolve
from models.shapes import shapes
from models.weights import load_weights, reads_in_place

NAME = "humaneval"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What to answer; the config file says what each field means."""

    model: str
    dtypes: tuple[str, ...] = ("float32",)
    placements: tuple[str, ...] = ("off-chip", "on-chip")
    rules: Rules = ()
    pair: str = "found"
    tasks: int = 0
    max_tokens: int = 256
    context: int = 0
    tensor: int = 0

    def __post_init__(self) -> None:
        placements.check(self.placements, self.rules, self.pair)
        check_dtypes(self.dtypes)
        if self.max_tokens < 2:
            raise ExperimentError(f"max_tokens must be at least 2, not {self.max_tokens}")
        if self.context < 0:
            raise ExperimentError(f"context must be at least 0, not {self.context}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What is asked of one model on this machine, and how it is spread over its devices."""

    settings: Settings  # with the pair that was found
    pair: Mechanism
    checkpoint: Checkpoint
    requests: tuple[Request, ...]
    slots: int
    keys: dict[tuple[str, str, str], str]  # by dtype, placement and task
    spreads: dict[str, mesh.Spread | None]  # by dtype; None: one device has all
    stacked: dict[str, bool]  # by dtype: whether the layers' weights are


def plan(settings: Settings) -> Plan:
    """What `run` takes; measures nothing.

    Raises `ModelError`, `EmuError` and `ExperimentError` for a model, a rule, a length or a number
    of devices that cannot be used.
    """
    pair = placements.found_pair(settings.pair)
    settings = dataclasses.replace(settings, pair=pair)
    checkpoint = open_checkpoint(resolve(settings.model))
    config = checkpoint.config
    placements.check_rules(settings.rules, shapes(config, settings.dtypes[0]), pair)
    asked = requests(checkpoint, settings.tasks, settings.max_tokens)
    length = slots(asked, context=settings.context, most=config.max_context)
    of = origin(checkpoint)
    spreads = {d: mesh.over(config, d, length, settings.tensor) for d in settings.dtypes}
    # A call costs its program some microseconds a leaf: stacks of layers are few.
    whole = placements.are_whole(settings.placements)
    stacked = {d: whole and s is None and reads_in_place(config, d) for d, s in spreads.items()}
    keys = {
        (dtype, name, r.task): key(
            NAME,
            of,
            dtype=dtype,
            placement=settings.rules if name == "rules" else name,
            task=r.task,
            model=settings.model,
            pair=settings.pair,
            new_tokens=r.new_tokens,
            slots=length,
            **({"tensor": settings.tensor} if settings.tensor > 1 else {}),
            **({"stacked": True} if stacked[dtype] else {}),
        )
        for dtype in settings.dtypes
        for r in asked
        for name in settings.placements
    }
    return Plan(
        settings=settings,
        pair=pair,
        checkpoint=checkpoint,
        requests=asked,
        slots=length,
        keys=keys,
        spreads=spreads,
        stacked=stacked,
    )


def run(planned: Plan, results: Results) -> tuple[str, ...]:
    """Measure what is not yet in `results`; returns the keys of all that was asked for."""
    settings, checkpoint = planned.settings, planned.checkpoint
    todo = {what: key for what, key in planned.keys.items() if key not in results}
    if not todo:
        return tuple(planned.keys.values())
    tell_redone(results, todo.values())
    chip = hosts.from_first(lambda: emu.host(pair=planned.pair))
    with progress(len(todo), "HumanEval", "answer") as bar:
        for dtype in dict.fromkeys(dtype for dtype, _, _ in todo):
            asked = {r.task: r for r in planned.requests if _of(todo, dtype, r.task)}
            spread = planned.spreads[dtype]
            weights = load_weights(checkpoint, dtype, stacked=planned.stacked[dtype])
            if spread is not None:
                weights = spread.layout.put(weights)
            engines = {
                name: engine(
                    weights,
                    checkpoint.config,
                    chip,
                    name,
                    rules=settings.rules,
                    pair=settings.pair,
                    slots=planned.slots,
                    spread=spread,
                )
                for name in dict.fromkeys(n for d, n, _ in todo if d == dtype)
            }
            del weights  # the engines hold them
            for one in engines.values():
                one.warm(asked.values())
            for task, request in asked.items():
                for name in _of(todo, dtype, task):  # by turns: drift favours none
                    measured = engines[name].answer(request)
                    measured = {"model": settings.model, "dtype": dtype, **measured}
                    results.append(row(todo[dtype, name, task], NAME, settings, measured))
                    bar.update()
    return tuple(planned.keys.values())


def report(settings: Settings, rows: Sequence[Row]) -> Report:
    """What the rows say."""
    answers = [answered(r) for r in rows]
    return Report(
        title=f"{settings.model}: how long a user waits for HumanEval's answers",
        answer=decode_report.answer(answers, settings.model),
        figures=(decode_report.figure(answers),),
        tables=decode_report.tables(answers),
    )


def _of(todo: Iterable[tuple[str, str, str]], dtype: str, task: str) -> list[str]:
    """The placements in which a task is still to be answered."""
    return [name for d, name, t in todo if (d, t) == (dtype, task)]
