"""The placements that experiments compare, by name, and the pair of memories they are made in.

`on-chip`, `off-chip` and `fit` are emu's own policies; the mixed ones are rules. A pair is two
memories of one machine between which `emu.realize` can really tell the difference: `rotation`
(a cache against the memory behind it), `memory-kind` (JAX's `device` against `pinned_host`) or, for
the sweep, `persistent-kernel` (a TPU's scratchpad against the memory behind it).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import emu
from emu.chips import Mechanism
from emu.rules import assign, ordered
from experiments import persistent
from experiments.errors import ExperimentError
from experiments.mesh import Spread
from experiments.wording import mb

NAMES = ("on-chip", "off-chip", "fit", "attention-on-chip", "half-on-chip", "rules")
# In the order in which they are looked for: where the device has an on-chip memory, it is that.
PAIRS: tuple[Mechanism, ...] = ("rotation", persistent.PAIR, "memory-kind")
FOUND = "found"  # a config's pair, until it is known where it runs

_WHOLE = ("on-chip", "off-chip")

Rules = tuple[tuple[str, str], ...]


def are_whole(names: Sequence[str]) -> bool:
    """Whether these placements put each kind of leaf into one memory, in all layers alike."""
    return all(name in _WHOLE for name in names)


def check(names: Sequence[str], rules: Rules, pair: str) -> None:
    """Refuse names that are none, rules that nobody asked for, and an unknown pair."""
    for name in names:
        if name not in NAMES:
            raise ExperimentError(f"there is no placement {name!r}: there are {', '.join(NAMES)}")
    if not names:
        raise ExperimentError(f"name at least one placement: there are {', '.join(NAMES)}")
    if len(set(names)) < len(names):
        raise ExperimentError(f"a placement is named twice: {', '.join(names)}")
    if bool(rules) != ("rules" in names):
        raise ExperimentError("the placement 'rules' and the config's rules go together: give both")
    if pair not in (FOUND, *PAIRS):
        known = ", ".join((FOUND, *PAIRS))
        raise ExperimentError(f"there is no pair {pair!r}: there are {known}")


def found_pair(pair: str, *, in_one_kernel: bool = False) -> Mechanism:
    """The pair that a config means on this machine: a TPU's on-chip memory is no cache.

    `in_one_kernel`: whether what is timed has the form that a scratchpad needs (`emu.persistent`).
    Raises ExperimentError for a pair that this machine does not have.
    """
    if pair == persistent.PAIR and not in_one_kernel:
        raise ExperimentError(
            f"pair {pair!r} is the residency sweep's alone: its kernel runs layers, and answers "
            "need tokens; --config.pair=memory-kind takes whole models"
        )
    here = emu.host_pairs()
    usable = [one for one in PAIRS if one in here and (in_one_kernel or one != persistent.PAIR)]
    for one in usable:
        if pair in (FOUND, one):
            return one
    asked = "two memories" if pair == FOUND else f"pair {pair!r}"
    raise ExperimentError(f"this machine has no {asked}: it has {', '.join(usable) or 'none'}")


def check_rules(rules: Rules, weights: Any, pair: Mechanism) -> None:
    """Refuse rules that do not fit a tree of weights (or their shapes), or name no memory here.

    Raises EmuError, ExperimentError. A placement finds out too, after the machine was measured.
    """
    if not rules:
        return
    assign(ordered(rules), emu.leaves_of(weights))
    known = ("on-chip", "off-chip", *emu.host_pairs()[pair])
    for pattern, memory in rules:
        if memory not in known:
            raise ExperimentError(
                f"rule {pattern!r} -> {memory!r}: there is no such memory here by {pair}: there "
                f"are {', '.join(known)}"
            )


def rules_of(name: str, layers: int, rules: Rules = ()) -> str | Rules:
    """What `emu.place` takes for a named placement of a model with so many layers."""
    if name in ("on-chip", "off-chip", "fit"):
        return name
    if name == "attention-on-chip":
        return (("layers/*/attention/**", "on-chip"), ("**", "off-chip"))
    if name == "half-on-chip":
        return ((f"layers[:{layers // 2}]/**", "on-chip"), ("**", "off-chip"))
    return rules


def applies(name: str, layers: int) -> bool:
    """Whether a named placement is one of its own for so many layers: half of one is none."""
    return name != "half-on-chip" or layers > 1


def label(name: str, excess_bytes: int) -> str:
    """What to call a placement where it is shown: one that overflows is not what its name says."""
    if not excess_bytes:
        return name
    return f"{name} policy, {mb(excess_bytes)} MB over capacity"


def with_cache(
    work: emu.Work, system: emu.System, name: str, *, layers: int, rules: Rules
) -> emu.Placement:
    """Place a whole step's leaves as a name says of the weights, and the KV cache on chip.

    It is written in place and read at each step. Over the edge, if need be.
    """
    of_weights = rules_of(name, layers, rules)
    if name == "fit":  # a policy that has to see the weights alone
        weights = tuple(leaf for leaf in work.leaves if leaf.kind == "weights")
        alone = dataclasses.replace(work, leaves=weights)
        fit = emu.place(alone, system, name, allow_overflow=True)
        of_weights = tuple((part.leaf.path, part.memory) for part in fit.residencies)
    elif isinstance(of_weights, str):
        of_weights = (("**", of_weights),)
    every = (("cache/**", "on-chip"), *of_weights)
    return emu.place(work, system, every, allow_overflow=True)


def placed(
    weights: dict[str, Any],
    chip: emu.Chip,
    name: str,
    *,
    layers: int,
    rules: Rules,
    pair: str,
    spread: Spread | None = None,
) -> tuple[emu.Placement, dict[str, Any]]:
    """Place weights as a name says, over the edge if need be.

    Args:
      weights: a tree of arrays.
      chip: with the two memories of the pair.
      name: of the placement.
      layers: how many the weights have.
      rules: what the placement "rules" means.
      pair: for the record.
      spread: over several devices, which then hold the KV cache on chip beside the weights.

    Returns:
      The placement, and what a row records of it.
    """
    near, far = chip.memory("on-chip"), chip.memory("off-chip")
    if spread is None:
        work, devices = emu.Work(leaves=emu.leaves_of(weights)), 1
        of_weights = rules_of(name, layers, rules)
        placement = emu.place(work, emu.System(chip), of_weights, allow_overflow=True)
    else:
        work, system = spread.work, spread.system(chip)
        devices = system.chips
        placement = with_cache(work, system, name, layers=layers, rules=rules)
    excess = placement.excess_bytes.get(near.name, 0)
    return placement, {
        "placement": name,
        "label": label(name, excess),
        "pair": pair,
        "on_chip": near.name,
        "off_chip": far.name,
        "weight_bytes": sum(placement.bytes_by_memory.values()),
        "on_chip_bytes": placement.bytes_by_memory[near.name],
        "excess_bytes": excess,
        "capacity_bytes": devices * int(near.capacity_bytes.value),
        **({} if spread is None else {"mesh": dict(spread.layout.mesh.shape)}),
    }
