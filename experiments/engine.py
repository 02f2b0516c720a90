"""A model with its weights in their place, which answers one request at a time and is timed.

A token is there when its id is on the host: that is when a user could see it. Tokens are chosen
greedily, and end of text does not end an answer, so that every run does the same work.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
from jax.sharding import NamedSharding

import emu
from experiments import placements
from experiments.mesh import Spread
from experiments.placements import Rules
from experiments.requests import Request
from models.cache import KVCache
from models.config import DecoderConfig
from models.generate import (
    Program,
    cache_dtype,
    cache_length,
    generate,
    prefill_token,
    step_token,
)
from models.sampling import Sampling
from models.structure import is_scanned


@dataclasses.dataclass(frozen=True, kw_only=True)
class Engine:
    """One placement of one model's weights, with `slots` in its KV cache."""

    program: Program
    config: DecoderConfig
    slots: int
    facts: dict[str, Any]  # about the placement, for the rows

    def warm(self, requests: Iterable[Request]) -> None:
        """Compile what these requests need, and run it once."""
        by_padded_length = {cache_length([len(r.prompt)], 0): r.prompt for r in requests}
        for prompt in by_padded_length.values():
            for _ in generate(self.program, self.config, [prompt], max_tokens=3, length=self.slots):
                pass

    def answer(self, request: Request) -> dict[str, Any]:
        """Answer a request, and what a row records of it."""
        ttft, gaps = emu.Recorder(), emu.Recorder()
        ttft.restart()
        start = time.perf_counter()
        tokens = generate(
            self.program,
            self.config,
            [request.prompt],
            max_tokens=request.new_tokens,
            length=self.slots,
        )
        next(tokens)
        ttft.add(time.perf_counter() - start)
        first = ttft.latency()
        gaps.restart()
        begin = now = before = time.perf_counter()
        for _ in tokens:
            now = time.perf_counter()
            gaps.add(now - before)
            before = time.perf_counter()  # metering is not the model's time
        return {
            **self.facts,
            "task": request.task,
            "prompt_tokens": len(request.prompt),
            "new_tokens": request.new_tokens,
            "ttft": dataclasses.asdict(first),
            "itl": dataclasses.asdict(gaps.latency()),
            # Each gap, so that percentiles can be taken over those of all tasks together.
            "gaps_s": [round(gap, 7) for gap in gaps.samples_s],
            "gaps_disturbed": [number for number, mark in enumerate(gaps.marks) if mark],
            "tpot_s": (now - begin) / (request.new_tokens - 1),
        }


def engine(
    weights: dict[str, Any],
    config: DecoderConfig,
    chip: emu.Chip,
    placement: str,
    *,
    rules: Rules,
    pair: str,
    slots: int,
    spread: Spread | None = None,
) -> Engine:
    """Put weights where a placement says; `placements.placed` says what the arguments are.

    With a `spread`, weights (which are laid over its devices already) and cache stay over them.
    """
    place, facts = placements.placed(
        weights, chip, placement, layers=config.layers, rules=rules, pair=pair, spread=spread
    )
    realized = emu.realize(_step(config, spread), place, weights)
    facts = {**facts, "copies": realized.copies, "notes": list(realized.notes)}
    if spread is None:
        program = Program(
            prefill=realized,
            step=lambda cache, tokens: realized(cache, tokens, None),
            cache_dtype=cache_dtype(weights),
            scanned=is_scanned(weights),
        )
    else:
        rows, put_cache = spread.layout.rows, spread.put_cache
        program = Program(
            prefill=lambda cache, tokens, lengths: realized(
                put_cache(cache), rows(tokens), rows(lengths)
            ),
            step=lambda cache, tokens: realized(cache, rows(tokens), None),
            cache_dtype=cache_dtype(weights),
        )
    return Engine(program=program, config=config, slots=slots, facts=facts)


@functools.cache
def _step(config: DecoderConfig, spread: Spread | None) -> Callable[..., tuple[jax.Array, KVCache]]:
    """Prefill and decode step in one function, so that they share the copies of the weights."""
    greedy = Sampling()
    kept = {}
    if spread is not None:
        rows = NamedSharding(spread.layout.mesh, spread.layout.batch)
        kept = {"out_shardings": (rows, spread.cache)}

    @functools.partial(jax.jit, donate_argnums=1, **kept)
    def step(
        weights: dict[str, Any], cache: KVCache, tokens: jax.Array, lengths: jax.Array | None
    ) -> tuple[jax.Array, KVCache]:
        taken: tuple[jax.Array, KVCache]
        if lengths is None:
            taken = step_token(config, greedy, weights, cache, tokens)
        else:
            taken = prefill_token(config, greedy, weights, cache, tokens, lengths)
        return taken

    return step
