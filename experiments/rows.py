"""What every row says besides the measurement: what was asked, of which machine, by which code.

A row's key is what was asked, then ` @ ` and what it was asked of: the weights' fingerprint, JAX's
versions, and the native products' name (a hash of their source, flags and processor). So a row of
other weights at the same path, or of another JAX, is not taken for one that is done.
"""

import datetime
import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any

import kernels
from experiments import provenance
from experiments.errors import ExperimentError
from experiments.results import Results, Row
from experiments.settings import as_dict
from kernels.library import library
from models.checkpoint import Checkpoint
from models.fingerprint import fingerprint

Origin = dict[str, str]

_AT = " @ "
DIGITS = 10  # of a figure in a row: no measurement has as many


def origin(checkpoint: Checkpoint) -> Origin:
    """What else decides the outcome: which weights, and what computes with them.

    Raises ModelError where the model's files cannot be read.
    """
    versions = provenance.versions()
    return {
        "weights": fingerprint(checkpoint.path),
        "jax": versions["jax"],
        "jaxlib": versions["jaxlib"],
        "products": library().stem if kernels.native() else "plain",
    }


def key(experiment: str, origin: Origin, **fields: Any) -> str:
    """The name of one measurement: the experiment and every field that decides its outcome."""
    return " ".join([experiment, *_pairs(fields)]) + _AT + " ".join(_pairs(origin))


def redone(results: Results, keys: Iterable[str]) -> str | None:
    """How many of the measurements to make were made before, of something else, and of what.

    Args:
      results: what is finished.
      keys: of the measurements that are still to be made.

    Returns:
      One line, or None where each of them is new.
    """
    before: dict[str, Origin] = {}
    for row in results.rows:
        what, _, of = row["key"].rpartition(_AT)
        before[what or of] = _origin_of(of if what else "")
    why: Counter[str] = Counter()
    again = 0
    for wanted in keys:
        what, _, of = wanted.rpartition(_AT)
        if what in before:
            again += 1
            now, old = _origin_of(of), before[what]
            why.update(
                f"{name} {old.get(name, 'not recorded')} then, {now[name]} now"
                for name in now
                if old.get(name) != now[name]
            )
    if not again:
        return None
    return f"{again} finished rows do not count and are measured again: {'; '.join(why)}"


def tell_redone(results: Results, keys: Iterable[str]) -> None:
    """Print what `redone` finds, if anything, on standard error."""
    line = redone(results, keys)
    if line:
        print(line, file=sys.stderr)


def row(key: str, experiment: str, settings: Any, measured: dict[str, Any]) -> Row:
    """One finished measurement, ready to append."""
    return {
        "key": key,
        "experiment": experiment,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "config": as_dict(settings),
        "machine": provenance.machine(),
        "versions": provenance.versions(),
        "git": provenance.git(),
        "measured": rounded(measured),
    }


def rounded(value: Any) -> Any:
    """The same, its floats to `DIGITS` significant digits."""
    match value:
        case float():
            return float(f"{value:.{DIGITS}g}")
        case dict():
            return {name: rounded(part) for name, part in value.items()}
        case list() | tuple():
            return [rounded(part) for part in value]
    return value


def check_machine(results: Results) -> None:
    """Refuse to add rows of this machine to those of another."""
    for old in results.rows:
        if not provenance.same_machine(old["machine"], provenance.machine()):
            raise ExperimentError(
                f"{results.path} holds results of another machine or set-up "
                f"({', '.join(f'{name} {value}' for name, value in old['machine'].items())}): "
                "use another workdir"
            )


def _pairs(fields: dict[str, Any]) -> list[str]:
    return [f"{name}={value}" for name, value in fields.items()]


def _origin_of(text: str) -> Origin:
    return dict(pair.split("=", 1) for pair in text.split() if "=" in pair)
