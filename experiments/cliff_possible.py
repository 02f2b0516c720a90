"""The rows of a sweep that this machine's pair of memories can have.

A cache takes any placement and overflows. A TPU's scratchpad holds whole layers, as one kernel
takes them, and what it cannot hold is left out and told of, before anything is measured.
"""

import sys
from collections.abc import Sequence

import emu
from emu.rules import assign, ordered
from experiments import persistent
from experiments.cliff_sizes import Size, config_of
from experiments.errors import ExperimentError
from experiments.placements import Rules, rules_of
from models.config import DecoderConfig
from models.shapes import shapes

_CLASSES = {"on-chip": "vmem", "off-chip": "hbm"}

Asked = tuple[str, Size, str]  # dtype, size, placement


def why_not(
    config: DecoderConfig, asked: Sequence[Asked], rules: Rules, context: int
) -> dict[Asked, str]:
    """Why a TPU's kernel cannot have what is asked for, of those that it cannot have.

    Raises ExperimentError where it can have none of a model.
    """
    persistent.check_config(config)
    found = {}
    for dtype, size, name in asked:
        try:
            _check(config_of(config, size), dtype, name, rules, context)
        except ExperimentError as error:
            found[dtype, size, name] = str(error)
    return found


def tell(reasons: dict[Asked, str]) -> None:
    """Print what is left out on standard error: a line for each dtype and placement."""
    told: dict[tuple[str, str], list[str]] = {}
    for (dtype, _, name), reason in reasons.items():
        told.setdefault((dtype, name), []).append(reason)
    for (dtype, name), why in told.items():
        rows = "1 row is" if len(why) == 1 else f"{len(why)} rows are"
        print(f"{name} in {dtype}: {rows} left out: {why[0]}", file=sys.stderr)


def _check(config: DecoderConfig, dtype: str, name: str, rules: Rules, context: int) -> None:
    persistent.check_dtypes([dtype])
    weights = {"layers": shapes(config, dtype)["layers"]}
    memories = _memories(weights, name, config.layers, rules)
    resident = persistent.resident_layers(memories, config.layers)
    persistent.check_room(persistent.stacked_shapes(weights), resident)
    persistent.check_cache_room(config, context)


def _memories(weights: dict[str, object], name: str, layers: int, rules: Rules) -> dict[str, str]:
    """The memory of each leaf, by its path."""
    of = rules_of(name, layers, rules)
    if of == "fit":
        raise ExperimentError("a TPU's kernel takes whole layers, and 'fit' places single matrices")
    wanted = ordered((("**", of),) if isinstance(of, str) else of)
    return {
        share.leaf.path: _CLASSES.get(wanted[share.rule].memory, wanted[share.rule].memory)
        for share in assign(wanted, emu.leaves_of(weights))
    }
