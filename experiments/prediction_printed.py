"""A prediction as one JSON object, or as a table for people."""

from typing import Any

from emu.chip_table import scaled
from emu.sensitivity import Elasticity
from experiments.prediction import Prediction
from experiments.ranges import Moved

# By what a number's name has in it; the first that is there.
_UNITS = {"flops_per_s": "FLOP/s", "bytes_per_s": "B/s", "_bytes": "B", "_s": "s"}


def as_json(prediction: Prediction, *, sensitivity: bool = False) -> dict[str, Any]:
    """The fields that others rely on, and what explains them; seconds, bytes, joules.

    sensitivity: with the elasticity of the step to every number in it.
    """
    system = prediction.system
    found: dict[str, Any] = {
        "seconds_per_step": prediction.seconds_per_step,
        "seconds_per_token": prediction.seconds_per_token,
        "tokens_per_s_per_user": prediction.tokens_per_s_per_user,
        "low_s": prediction.low_s,
        "high_s": prediction.high_s,
        "breakdown_s": {part: float(s) for part, s in prediction.breakdown_s.items()},
        "bytes": dict(prediction.bytes),
        "traffic_bytes": dict(prediction.traffic_bytes),
        "flops": prediction.flops,
        "memories": {
            name: {"used": fill.used_bytes, "capacity": fill.capacity_bytes}
            for name, fill in prediction.memories.items()
        },
        "energy_j": prediction.energy_j,
        "model": prediction.question.model,
        "weights": prediction.question.weights,
        "kv": prediction.question.kv,
        "batch": prediction.question.batch,
        "context": prediction.question.context,
        "system": {
            "chip": system.chip.name,
            "chips": system.chips,
            "tensor": system.tensor,
            "pipeline": system.pipeline,
            "expert": system.expert,
            "data": system.data,
            "stack": system.software.name,
        },
        "assumed": list(prediction.assumed),
        "ranges": [
            {
                "number": moved.name,
                "kind": moved.number.kind,
                "value": moved.number.value,
                "low": moved.number.low,
                "high": moved.number.high,
                "seconds_at_low": moved.low_s,
                "seconds_at_high": moved.high_s,
                "source": moved.number.source,
            }
            for moved in prediction.moved
        ],
    }
    if prediction.ttft_s is not None:
        found["ttft_s"] = prediction.ttft_s
    if sensitivity:
        found["sensitivity"] = [
            {
                "number": one.name,
                "elasticity": one.value,
                "value": one.number.value,
                "kind": one.number.kind,
                "source": one.number.source,
            }
            for one in prediction.elasticities
        ]
    return found


def as_text(prediction: Prediction, *, sensitivity: bool = False) -> str:
    """A table: the step, where its time goes, how full memories are, what is assumed.

    sensitivity: with the elasticity of the step to every number in it.
    """
    asked, step = prediction.question, prediction.seconds_per_step
    lines = [
        f"{asked.model}, weights {asked.weights}, cache {asked.kv}, batch {asked.batch}, context "
        f"{asked.context:,}",
        _system_line(prediction),
        "",
        f"  {_s(prediction.seconds_per_token)} a token, {prediction.tokens_per_s_per_user:,.1f} "
        "tokens/s for each user",
        f"  {_s(step)} a step, {_range(prediction)}",
    ]
    if asked.tokens_per_step > 1:
        lines.append(f"  {asked.tokens_per_step:g} tokens a step, {asked.drafted} drafted")
    if prediction.ttft_s is not None:
        prefix = f" after {asked.prefix:,} in the cache" if asked.prefix else ""
        lines.append(
            f"  {_s(prediction.ttft_s)} to the first token, of a prompt of {asked.prompt:,}{prefix}"
        )
    lines += ["", f"  {'where the time goes':<24}{'':>14}{'share':>9}"]
    for part, seconds in prediction.breakdown_s.items():
        share = float(seconds) / step if step else 0.0
        lines.append(f"  {part:<24}{_s(float(seconds)):>14}{share:>9.1%}")
    lines += ["", f"  {'what a step moves':<24}"]
    for name, count in prediction.bytes.items():
        lines.append(f"  {name.replace('_', ' '):<24}{scaled(count, 'B'):>14}")
    lines.append(f"  {'arithmetic':<24}{scaled(prediction.flops, 'FLOP'):>14}")
    if prediction.energy_j is not None:
        lines.append(f"  {'energy, at stated power':<24}{scaled(prediction.energy_j, 'J'):>14}")
    lines += ["", "  what each chip holds"]
    for name, fill in prediction.memories.items():
        share = fill.used_bytes / fill.capacity_bytes
        of = f"of {scaled(fill.capacity_bytes, 'B')}"
        lines.append(f"  {name:<24}{scaled(fill.used_bytes, 'B'):>14} {of:<14}{share:>9.1%}")
    if sensitivity:
        lines += ["", "  by how many per cent a step takes longer when a number grows by one"]
        lines += [_elasticity_line(one) for one in prediction.elasticities]
    return "\n".join([*lines, *_assumed_lines(prediction)])


def _elasticity_line(one: Elasticity) -> str:
    value = _told(one.name, one.number.value)
    return f"  {one.name:<44} {one.value:>+7.3f}   {value:>14}  {one.number.kind}"


def _told(name: str, value: float) -> str:
    """A number in the unit that its name says, which a dtype or a count may follow in a path."""
    parts = name.split("/")
    unit = next((u for end, u in _UNITS.items() if any(p.endswith(end) for p in parts)), None)
    return f"{value:.4g}" if unit is None else scaled(value, unit)


def _range(prediction: Prediction) -> str:
    if not prediction.moved:
        return "as all numbers that it depends on are stated: none has a range"
    return (
        f"from {_s(prediction.low_s)} to {_s(prediction.high_s)} by the ranges of the numbers in "
        "it (80 %)"
    )


def _system_line(prediction: Prediction) -> str:
    system = prediction.system
    degrees = [
        f"{name} {getattr(system, name)}"
        for name in ("tensor", "pipeline", "expert", "data")
        if getattr(system, name) > 1
    ]
    split = f" ({', '.join(degrees)})" if degrees else ""
    return f"{system.chips} x {system.chip.name}{split}, stack {system.software.name}"


def _assumed_lines(prediction: Prediction) -> list[str]:
    lines = []
    if prediction.moved:
        lines += [
            "",
            "  numbers with a range that the step depends on, and the step at their ends",
        ]
        lines += [_moved_line(moved) for moved in prediction.moved]
    if prediction.assumed:
        lines += ["", "  assumed"]
        lines += [f"  - {note}" for note in prediction.assumed]
    return lines


def _moved_line(moved: Moved) -> str:
    number = moved.number
    low, high = ("?" if n is None else _told(moved.name, n) for n in (number.low, number.high))
    value = f"{_told(moved.name, number.value)} ({low} to {high})"
    return (
        f"  {moved.name:<34} {value:<44} {number.kind:<9} {_s(moved.low_s)} to {_s(moved.high_s)}"
    )


def _s(seconds: float) -> str:
    return scaled(seconds, "s")
