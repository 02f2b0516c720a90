"""The answer to a question: what a step takes on the system, where the time goes, how sure it is.

A step is one decode step of the model; with speculation it verifies the drafted tokens at once, and
the draft model's steps come before it. The time to the first token is the prompt's prefill alone on
the same system, in chunks one after the other.
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import emu
from emu.sensitivity import Elasticity, elasticities
from experiments.errors import ExperimentError
from experiments.placing import rules_of
from experiments.question import Question
from experiments.ranges import Moved, range_of
from experiments.steps_traced import check_context, decode_work, prefill_work
from experiments.usual_split import Asked, placed
from models.zoo import architecture

# Tokens of a prompt that are prefilled at once, as servers do so that others need not wait.
CHUNK = 2048
_MOST_TRACED = 4  # chunks; those between are interpolated


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fill:
    """What one chip's memory holds, on the chip that is fullest."""

    used_bytes: int
    capacity_bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A traced step on the system, and how often it comes in the step that is asked for."""

    work: emu.Work
    placement: emu.Placement
    times: int = 1

    def seconds(self, system: emu.System) -> float:
        """Seconds on a system with other numbers, all times together."""
        return self.times * float(emu.predict(self.work, system, self.placement).seconds)

    @functools.cached_property
    def timeline(self) -> emu.Timeline:
        """One time, on the system itself."""
        return emu.predict(self.work, self.placement.system, self.placement)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """See the module. Seconds, bytes and FLOPs are of one step of the whole system."""

    question: Question
    system: emu.System
    seconds_per_step: float
    low_s: float  # 80 % range of seconds_per_step
    high_s: float
    breakdown_s: Mapping[str, float]
    bytes: Mapping[str, int]  # of the model's tensors, as if nothing were held twice
    traffic_bytes: Mapping[str, int]  # through each kind of memory, of all chips
    flops: int
    memories: Mapping[str, Fill]
    energy_j: float | None
    ttft_s: float | None
    assumed: tuple[str, ...]  # what had to be assumed, in words
    moved: tuple[Moved, ...]  # the numbers with a range that the time depends on, widest first
    timeline: emu.Timeline  # of the model's own step
    leaves: tuple[emu.Residency, ...]
    parts: tuple[Part, ...]

    @property
    def seconds_per_token(self) -> float:
        """Of one user, after speculation."""
        return self.seconds_per_step / self.question.tokens_per_step

    @functools.cached_property
    def elasticities(self) -> tuple[Elasticity, ...]:
        """By how many per cent a step takes longer when a number grows by one, strongest first."""
        found: dict[str, Elasticity] = {}
        for part in self.parts:
            share = part.seconds(self.system) / self.seconds_per_step
            for one in elasticities(part.work, self.system, part.placement):
                known = found[one.name].value if one.name in found else 0.0
                found[one.name] = dataclasses.replace(one, value=known + share * one.value)
        return tuple(sorted(found.values(), key=lambda one: -abs(one.value)))

    @property
    def tokens_per_s_per_user(self) -> float:
        """The inverse."""
        return 1.0 / self.seconds_per_token


def predicted(question: Question) -> Prediction:
    """Answer a question.

    Raises:
      CapacityError: the model does not fit.
      EmuError, ModelError, ExperimentError: unknown names, impossible splits, a context beyond the
        model's.
    """
    parts = parts_of(question)
    placement = parts[0].placement
    system = placement.system
    seconds = step_seconds(parts, system)
    spread = range_of(functools.partial(step_seconds, parts), system)
    unspread = system.data if system.ranks is None else 1  # replicas, each with the work as traced
    energies = [part.timeline.energy_j for part in parts]
    return Prediction(
        question=question,
        system=system,
        seconds_per_step=seconds,
        low_s=spread.low_s,
        high_s=spread.high_s,
        breakdown_s=_sum(parts, lambda part: part.timeline.breakdown),
        bytes={
            name: unspread * int(n)
            for name, n in _sum(parts, lambda part: _bytes(part.work)).items()
        },
        traffic_bytes={
            name: int(n) for name, n in _sum(parts, lambda part: part.timeline.traffic).items()
        },
        flops=unspread * sum(part.times * part.work.flops for part in parts),
        memories=_memories(parts, system),
        energy_j=None
        if None in energies
        else sum(part.times * float(part.timeline.energy_j) for part in parts),
        ttft_s=None if question.prompt is None else ttft_seconds(question, placement),
        assumed=tuple(_assumptions(question, parts)),
        moved=spread.moved,
        timeline=parts[0].timeline,
        leaves=placement.residencies,
        parts=parts,
    )


def parts_of(question: Question) -> tuple[Part, ...]:
    """What a step is made of: the model's own, then the draft model's. Raises as `predicted`."""
    model = _model_part(question)
    system = model.placement.system
    parts = (model, *_drafts(question, system))
    _check_room_together(parts, system)
    return parts


def step_seconds(parts: Sequence[Part], system: emu.System) -> float:
    """Seconds of a step on the system that its parts were placed on, or on one of other numbers."""
    return sum(part.seconds(system) for part in parts)


def _model_part(question: Question) -> Part:
    """A step on the question's chips, or on the smallest usual number of them that holds it."""
    tokens = 1 + question.drafted
    check_context(question.model, question.context + tokens, "--context")
    chip = emu.chip(question.chip) if isinstance(question.chip, str) else question.chip
    stack = emu.stack(question.stack) if isinstance(question.stack, str) else question.stack
    asked = Asked(
        chips=question.chips,
        tensor=question.tensor,
        pipeline=question.pipeline,
        expert=question.expert,
        data=question.data,
    )
    layers = architecture(question.model).config.layers
    if question.pipeline is not None and question.pipeline > layers + 2:
        raise ExperimentError(
            f"--pipeline={question.pipeline}: {question.model} has {layers} layers, which with "
            f"embedding and head make at most {layers + 2} stages"
        )
    rules = rules_of(question.placement, chip)

    def work(system: emu.System) -> emu.Work:
        return decode_work(
            question.model,
            question.weights,
            question.kv,
            batch=_batch(question, system),
            context=question.context,
            tokens=tokens,
        )

    traced, placement = placed(work, chip, stack, asked, rules, layers)
    return Part(work=traced, placement=placement)


def _batch(question: Question, system: emu.System) -> int:
    """Sequences in the traced step: of all replicas where it is spread, else of one."""
    return question.batch if system.ranks is not None else question.batch // system.data


def ttft_seconds(question: Question, placement: emu.Placement) -> float:
    """Seconds until the first token: one prompt alone (one on each replica), in chunks in turn."""
    system = placement.system
    total = 0.0
    for times, context, tokens in prefill_chunks(question):
        work, placed_chunk = chunk_placed(question, system, context, tokens)
        total += times * float(emu.predict(work, system, placed_chunk).seconds)
    return total


def prefill_chunks(question: Question) -> list[tuple[float, int, int]]:
    """The chunks of a prompt: how many like each, the tokens before it, and its own.

    At most five differ, those of full length at even distances: the seconds of chunks between them
    lie between theirs, since they grow with the tokens that are attended to, evenly but for
    windows. So counts need not be whole.
    """
    assert question.prompt is not None
    end = question.prefix + question.prompt
    check_context(question.model, end, "--prompt")
    whole, rest = divmod(question.prompt, CHUNK)
    starts = [question.prefix + CHUNK * n for n in range(whole)]
    chunks = []
    if starts:
        some = sorted({round(at) for at in np.linspace(0, whole - 1, min(whole, _MOST_TRACED))})
        for at, unit in zip(some, np.eye(len(some)), strict=True):
            times = float(np.interp(range(whole), some, unit).sum())
            chunks.append((times, starts[at], CHUNK))
    if rest:
        chunks.append((1.0, end - rest, rest))
    return chunks


def chunk_placed(
    question: Question, system: emu.System, context: int, tokens: int
) -> tuple[emu.Work, emu.Placement]:
    """One chunk of a prompt on a system: one sequence on each replica."""
    work = prefill_work(
        question.model,
        question.weights,
        question.kv,
        batch=1 if system.ranks is None else system.data,
        context=context,
        tokens=tokens,
    )
    return work, emu.place(work, system, rules_of(question.placement, system.chip))


def _drafts(question: Question, system: emu.System) -> list[Part]:
    """The draft model's steps, one token each."""
    if question.draft_model is None:
        return []
    stored = question.draft_weights or question.weights
    check_context(question.draft_model, question.context + question.drafted, "--draft_model")
    work = decode_work(
        question.draft_model,
        stored,
        question.kv,
        batch=_batch(question, system),
        context=question.context,
    )
    placement = emu.place(work, system, rules_of(question.placement, system.chip))
    return [Part(work=work, placement=placement, times=question.drafted)]


def _check_room_together(parts: Sequence[Part], system: emu.System) -> None:
    """The model and its draft model share the chips. Raises CapacityError."""
    for name, fill in _memories(parts, system).items():
        if len(parts) > 1 and fill.used_bytes > fill.capacity_bytes:
            raise emu.CapacityError(
                f"--draft_model: with it {name} of each chip would hold {fill.used_bytes:,} of "
                f"{fill.capacity_bytes:,} bytes; take more chips or a smaller draft model"
            )


def _memories(parts: Sequence[Part], system: emu.System) -> dict[str, Fill]:
    return {
        memory.name: Fill(
            used_bytes=sum(part.placement.fullest_chip_bytes[memory.name] for part in parts),
            capacity_bytes=int(memory.capacity_bytes.value),
        )
        for memory in system.chip.memories
    }


def _bytes(work: emu.Work) -> dict[str, int]:
    return {
        "weights": work.weight_bytes,
        "cache": work.cache_bytes,
        "cache_written": work.cache_written_bytes,
        "activations": work.activation_bytes,
    }


def _sum(parts: Sequence[Part], read: Any) -> dict[str, float]:
    total: dict[str, float] = {}
    for part in parts:
        for name, number in read(part).items():
            total[name] = total.get(name, 0) + part.times * number
    return total


def _assumptions(question: Question, parts: Sequence[Part]) -> list[str]:
    notes = list(itertools.chain.from_iterable(part.timeline.notes for part in parts))
    if question.tokens_per_step > 1 and question.draft_tokens is None:
        notes.append(
            f"drafts: {question.drafted} a step, the fewest that can yield "
            f"{question.tokens_per_step:g} tokens (--draft_tokens)"
        )
    if question.drafted and question.draft_model is None:
        notes.append("drafts: proposing them is free (--draft_model)")
    if question.prompt is not None:
        notes.append(
            f"first token: the prompt alone on its chips, in chunks of {CHUNK} tokens one after "
            "the other"
        )
    experts = architecture(question.model).config.experts
    if experts is not None:
        notes.append(f"experts: all {experts.count} are equally likely, token by token")
    if architecture(question.model).unverified:
        notes.append(f"{question.model}: {architecture(question.model).unverified}")
    return list(dict.fromkeys(notes))
