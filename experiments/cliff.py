"""The residency sweep: models of the first 1, 2, 3, … layers, by where their weights live.

One decode step of the layers alone (hidden state in, hidden state out, one token, a short cache),
so that the weights grow from well inside the last-level cache to far beyond it. For each size the
placements take turns, and each becomes one row. Beside each measured time stands what `emu.predict`
says of it (`experiments.cliff_prediction`), from reads of no model, which have turns too.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

import emu
from emu.chips import Mechanism
from emu.drift import Now, References, Turn
from emu.report import Report
from experiments import (
    cliff_possible,
    cliff_prediction,
    cliff_report,
    cliff_sizes,
    cliff_summary,
    cliff_tables,
    persistent,
    placements,
)
from experiments.cliff_sizes import Size, config_of, weights_of
from experiments.errors import ExperimentError
from experiments.placements import Rules
from experiments.progress import progress
from experiments.results import Results, Row
from experiments.rows import key, origin, row, tell_redone
from experiments.turns import by_turns
from models.cache import KVCache, new_cache
from models.checkpoint import Checkpoint, open_checkpoint
from models.config import DecoderConfig
from models.named import resolve
from models.stacking import stack_layers
from models.steps import layer_step, shapes
from models.weights import DTYPES, load_weights

NAME = "residency_cliff"

BURST_S = 5e-3  # short steps are timed several at once, or calling them would be most of the time
IN_ONE_S = 2e-3  # of steps in one program: many times what calling it takes, and soon compiled
MOST_STEPS = 32

REST = "the rest of a step"
THIN = 8  # width of the layers that it is measured on


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What to sweep; the config file says what each field means."""

    model: str
    dtypes: tuple[str, ...] = ("float32", "bfloat16", "int8")
    layers: tuple[int, ...] = ()
    thin: tuple[int, ...] = ()
    placements: tuple[str, ...] = ("on-chip", "off-chip")
    rules: Rules = ()
    pair: str = "found"
    stacked: bool = False
    context: int = 32
    rounds: int = 3
    samples: int = 30
    fresh_host: bool = False
    device_means: bool = False

    def __post_init__(self) -> None:
        placements.check(self.placements, self.rules, self.pair)
        check_dtypes(self.dtypes)
        _check_stacked(self)
        for name in ("context", "rounds", "samples"):
            if getattr(self, name) < 1:
                raise ExperimentError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name, counts in (("layers", self.layers), ("thin layers", self.thin)):
            if len(set(counts)) < len(counts):
                raise ExperimentError(f"a number of {name} is named twice: {counts}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
    """One row to be."""

    dtype: str
    size: Size
    placement: str
    key: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What is asked of one model on this machine."""

    settings: Settings  # with the pair that was found
    pair: Mechanism
    checkpoint: Checkpoint
    wanted: tuple[Measurement, ...]


def _check_stacked(settings: Settings) -> None:
    if not settings.stacked:
        return
    if settings.pair == persistent.PAIR:
        raise ExperimentError(
            f"pair {persistent.PAIR!r} holds layers one by one: set config.stacked to False"
        )
    split = [name for name in settings.placements if not placements.are_whole([name])]
    if split:
        raise ExperimentError(
            f"placement {split[0]!r} would split stacked layers: with config.stacked place them "
            "on-chip and off-chip"
        )


def check_dtypes(dtypes: Sequence[str]) -> None:
    """Refuse dtypes that weights cannot be held in, none, and one named twice."""
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise ExperimentError(f"there is no dtype {dtype!r}: there are {', '.join(DTYPES)}")
    if not dtypes or len(set(dtypes)) < len(dtypes):
        raise ExperimentError(f"name each dtype once: {', '.join(DTYPES)}")


def plan(settings: Settings) -> Plan:
    """What `run` takes; measures nothing.

    Raises `ModelError`, `EmuError` and `ExperimentError` for a model, a rule or a size that cannot
    be used.
    """
    pair = placements.found_pair(settings.pair, in_one_kernel=True)
    settings = dataclasses.replace(settings, pair=pair)
    checkpoint = open_checkpoint(resolve(settings.model))
    wanted = _measurements(settings, checkpoint)
    if pair == persistent.PAIR:
        wanted = _possible(settings, checkpoint.config, wanted)
    for size in dict.fromkeys(m.size for m in wanted):
        layers = shapes(config_of(checkpoint.config, size), settings.dtypes[0])["layers"]
        placements.check_rules(settings.rules, {"layers": layers}, pair)
    return Plan(settings=settings, pair=pair, checkpoint=checkpoint, wanted=wanted)


def _measurements(settings: Settings, checkpoint: Checkpoint) -> tuple[Measurement, ...]:
    """Every row that the settings ask for, of this model."""
    config, of = checkpoint.config, origin(checkpoint)
    sizes = cliff_sizes.sizes(settings.model, config, settings.layers, settings.thin)
    if settings.context > config.max_context:
        raise ExperimentError(
            f"config.context is {settings.context}, and the context of {settings.model} is at most "
            f"{config.max_context}: lower it"
        )
    common = {
        "model": settings.model,
        "pair": settings.pair,
        "context": settings.context,
        "rounds": settings.rounds,
        "samples": settings.samples,
    } | ({"stacked": True} if settings.stacked else {})
    return tuple(
        Measurement(
            dtype=dtype,
            size=size,
            placement=name,
            key=key(
                NAME,
                of,
                dtype=dtype,
                layers=size.name,
                placement=settings.rules if name == "rules" else name,
                **common,
            ),
        )
        for dtype in settings.dtypes
        for size in sizes
        for name in settings.placements
        if placements.applies(name, size.count)
    )


def run(planned: Plan, results: Results) -> tuple[str, ...]:
    """Measure what is not yet in `results`; returns the keys of all that was asked for."""
    settings, checkpoint = planned.settings, planned.checkpoint
    todo = [m for m in planned.wanted if m.key not in results]
    if todo:
        tell_redone(results, (m.key for m in todo))
        chip = emu.host(refresh=settings.fresh_host, pair=planned.pair)
        with progress(len(todo), "residency sweep", "row") as bar:
            for dtype in dict.fromkeys(m.dtype for m in todo):
                sizes = dict.fromkeys(m.size for m in todo if m.dtype == dtype)
                weights = load_weights(checkpoint, dtype, layers=max(s.count for s in sizes))
                configs = [config_of(checkpoint.config, size) for size in sizes]
                references = _references(settings, chip, dtype, configs)
                for size in sizes:
                    group = [m for m in todo if (m.dtype, m.size) == (dtype, size)]
                    config = config_of(checkpoint.config, size)
                    part = weights_of(weights, config, dtype, size)
                    measured = _measure(settings, config, chip, references, part, group)
                    for m in group:
                        results.append(row(m.key, NAME, settings, measured[m.placement]))
                        bar.update()
    return tuple(m.key for m in planned.wanted)


def _possible(
    settings: Settings, config: DecoderConfig, wanted: Sequence[Measurement]
) -> tuple[Measurement, ...]:
    """What a TPU's scratchpad can have of it; tells what is left out."""
    asked = {m: (m.dtype, m.size, m.placement) for m in wanted}
    reasons = cliff_possible.why_not(config, list(asked.values()), settings.rules, settings.context)
    cliff_possible.tell(reasons)
    possible = tuple(m for m, what in asked.items() if what not in reasons)
    if not possible:
        raise ExperimentError("nothing is left to measure: see what was left out, and why")
    return possible


def report(settings: Settings, rows: Sequence[Row]) -> Report:
    """What the rows say."""
    points = [cliff_summary.point(r) for r in rows]
    return Report(
        title=f"{settings.model}: weights on chip and off chip",
        answer=cliff_report.answer(points),
        figures=(cliff_report.figure(points),),
        tables=cliff_tables.tables(points),
    )


def read_bytes(weights: dict[str, Any]) -> list[int]:
    """The bytes of each product of a decode step, in order: what `Memory.seconds` speaks of.

    Products that share their input are one read; norms, a thousandth of the bytes, are left out.
    The weights may be shapes.
    """
    shared = (
        ("attention", ("q", "k", "v")),
        ("attention", ("o",)),
        ("mlp", ("gate", "up")),
        ("mlp", ("down",)),
    )
    return [
        sum(
            leaf.size * leaf.dtype.itemsize
            for name in names
            for leaf in jax.tree.leaves(layer[block][name])
        )
        for layer in weights["layers"].values()
        for block, names in shared
    ]


def _references(
    settings: Settings, chip: emu.Chip, dtype: str, configs: Sequence[DecoderConfig]
) -> References | None:
    """What to time again beside each size: on a CPU, whose cache and bus others may use too."""
    measured = all(any(c.dtype == dtype for c in memory.curves) for memory in chip.memories)
    if settings.pair != "rotation" or jax.default_backend() != "cpu" or not measured:
        return None
    layers = ({"layers": shapes(config, dtype)["layers"]} for config in configs)
    return References(chip, dtype, [n for each in layers for n in read_bytes(each)])


def _measure(
    settings: Settings,
    config: DecoderConfig,
    chip: emu.Chip,
    references: References | None,
    weights: dict[str, Any],
    group: Sequence[Measurement],
) -> dict[str, dict[str, Any]]:
    """What to record of each placement of one model, by its name."""
    hidden = jax.random.normal(jax.random.key(0), (1, 1, config.width), jnp.float32)

    step = _step(config)  # one program for all placements
    in_kernel = settings.pair == persistent.PAIR
    steps = persistent.STEPS if in_kernel else 1
    reads = read_bytes(weights)
    weights = _held(settings, config, weights)
    cache = _cache(settings, config)
    work = cliff_prediction.traced(step, weights, cache, hidden)
    step_s = sum(chip.memory("off-chip").seconds(n, group[0].dtype) for n in reads)
    calls: dict[str, Callable[[], Any]] = {}
    facts: dict[str, dict[str, Any]] = {}
    for m in group:
        placement, facts[m.placement] = placements.placed(
            weights,
            chip,
            m.placement,
            layers=config.layers,
            rules=settings.rules,
            pair=settings.pair,
        )
        realized = emu.realize(_formed(step, config, in_kernel), placement, weights)
        call = realized.steps_in_one(steps) if in_kernel else realized
        facts[m.placement] |= {"copies": realized.copies, "notes": list(realized.notes)}
        cache = _cache(settings, config)
        calls[m.placement] = _stepping(call, cache, hidden)
        if settings.device_means or jax.default_backend() != "cpu":
            steps_in_one = max(realized.copies, _burst(step_s, IN_ONE_S))
            facts[m.placement]["device_mean_s"] = _device_mean_s(
                realized, settings, config, hidden, steps_in_one
            )
    calls[REST] = _rest(settings, config, group[0].dtype, chip if in_kernel else None)
    burst = 1 if in_kernel else _burst(step_s, BURST_S)
    turns: list[Turn] = []
    latencies = by_turns(
        calls,
        rounds=settings.rounds,
        samples=settings.samples,
        burst=burst,
        steps=steps,
        beside=None if references is None else lambda: turns.append(references.take()),
    )
    now = Now() if references is None else references.now(turns)
    near, far = (now.chip(chip).memory(of) for of in ("on-chip", "off-chip"))
    for m in group:
        facts[m.placement] |= cliff_prediction.facts(
            work,
            chip,
            now,
            name=m.placement,
            layers=config.layers,
            rules=settings.rules,
            steps=steps,
        )
    # Once for a size, since all its rows are predicted from it.
    facts[group[0].placement] |= cliff_prediction.machine_facts(chip, now, group[0].dtype, steps)
    rest_s = latencies[REST].median_s
    # Its own reads are off the chip's curves, where most of such a small one is its start.
    starts_s = sum(
        near.seconds(n, group[0].dtype) for n in read_bytes(_thin(config, group[0].dtype))
    )
    beside_s = max(rest_s - starts_s, 0.0)
    return {
        m.placement: {
            "model": settings.model,
            "dtype": m.dtype,
            "layers": m.size.layers,
            "layer_count": m.size.count,
            **facts[m.placement],
            "host_on_chip_s": beside_s + sum(near.seconds(n, m.dtype) for n in reads),
            "host_off_chip_s": beside_s + sum(far.seconds(n, m.dtype) for n in reads),
            "rest_s": rest_s,
            "steps_per_sample": burst * steps,
            "latency": dataclasses.asdict(latencies[m.placement]),
            "prediction_error": (
                facts[m.placement]["predicted_s"] / latencies[m.placement].median_s - 1
            ),
        }
        for m in group
    }


def _step(config: DecoderConfig) -> Callable[..., tuple[jax.Array, KVCache]]:
    @functools.partial(jax.jit, donate_argnums=1)
    def step(
        weights: dict[str, Any], cache: KVCache, hidden: jax.Array
    ) -> tuple[jax.Array, KVCache]:
        hidden, cache = layer_step(config, weights, cache, hidden)
        return hidden, _nearly_full(cache)

    return step


def _formed(
    step: Callable[..., tuple[jax.Array, KVCache]], config: DecoderConfig, in_kernel: bool
) -> Callable[..., Any]:
    """What `emu.realize` takes: where a scratchpad asks for it, with the step's kernel."""
    return persistent.LastSlotSteps(config=config, step=step) if in_kernel else step


def _rest(
    settings: Settings, config: DecoderConfig, dtype: str, scratchpad: emu.Chip | None
) -> Callable[[], Any]:
    """The same layers with next to no weights: norms, attention, and calling all of it.

    Heads and cache are as they were, and each product reads a hundredth of its bytes, so what this
    takes is what a step takes beside its products. With a scratchpad it is in one kernel too.
    """
    thin = _thin_config(config)
    weights = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), _thin(config, dtype))
    weights = _held(settings, thin, weights)
    cache = _cache(settings, thin)
    step: Callable[..., Any] = functools.partial(_step(thin), weights)
    if scratchpad is not None:
        work = emu.Work(leaves=emu.leaves_of(weights))
        placement = emu.place(work, emu.System(scratchpad), "on-chip")
        formed = _formed(_step(thin), thin, in_kernel=True)
        step = emu.realize(formed, placement, weights).steps_in_one(persistent.STEPS)
    return _stepping(step, cache, jnp.ones((1, 1, THIN), jnp.float32))


def _thin_config(config: DecoderConfig) -> DecoderConfig:
    return dataclasses.replace(config, width=THIN, mlp_width=THIN)


def _thin(config: DecoderConfig, dtype: str) -> dict[str, Any]:
    """Shapes of layers with next to no weights."""
    return {"layers": shapes(_thin_config(config), dtype)["layers"]}


def _device_mean_s(
    realized: emu.Realized,
    settings: Settings,
    config: DecoderConfig,
    hidden: jax.Array,
    steps: int,
) -> float:
    """Seconds of a step among several in one program: what is left without the host's dispatch.

    `steps` go through all copies of what is off chip. Of a kernel that copies weights on chip when
    it begins, what more steps take more.
    """

    def seconds(steps: int) -> float:
        program = realized.steps_in_one(steps)
        cache = _cache(settings, config)
        latency = emu.measure(
            lambda cache: program(cache, hidden)[1], carry=cache, samples=settings.samples, warmup=2
        )
        return latency.median_s

    if realized.mechanism == persistent.PAIR:
        more = persistent.STEPS
        return (seconds(2 * more) - seconds(more)) / more
    return seconds(steps) / steps


def _burst(step_s: float, seconds: float) -> int:
    """How many steps take so long, if one takes `step_s`."""
    return min(max(round(seconds / step_s), 1), MOST_STEPS)


def _held(settings: Settings, config: DecoderConfig, weights: dict[str, Any]) -> dict[str, Any]:
    """The layers as they are stored: one by one, or each kind of leaf stacked."""
    return stack_layers(config, weights) if settings.stacked else weights


def _cache(settings: Settings, config: DecoderConfig) -> KVCache:
    return _nearly_full(
        new_cache(config, batch=1, length=settings.context, scanned=settings.stacked)
    )


def _nearly_full(cache: KVCache) -> KVCache:
    """The cache with one slot left, which a step fills: every step reads all of it."""
    return cache.rewind(jnp.full((1,), cache.length - 1, jnp.int32))


def _stepping(step: Callable[..., Any], cache: KVCache, hidden: jax.Array) -> Callable[[], Any]:
    """The same step again and again, the cache handed on so that it is updated in place."""

    def call() -> jax.Array:
        nonlocal cache
        out: jax.Array
        out, cache = step(cache, hidden)
        return out

    return call
