"""One mutable config becomes one frozen record, once.

Config files fill an `ml_collections.ConfigDict`, which the command line may override; `freeze`
turns it into the frozen dataclass of the experiment, checking that every key is known, present
and of the declared type, so that nothing behind it has to ask again.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable
from typing import Any, TypeVar

from ml_collections import ConfigDict

from experiments.errors import ExperimentError

T = TypeVar("T")


def freeze(record: type[T], config: ConfigDict, where: str = "config") -> T:
    """The frozen record for a config.

    Args:
      record: a dataclass whose fields are str, bool, int, float, tuples of them, dataclasses, or
        dicts of dataclasses by names that the config chooses.
      config: has exactly the record's fields; those with a default may be left out.
      where: the path of this config, for messages.

    Raises:
      ExperimentError: an unknown key (with the nearest right one), a missing or mistyped one.
    """
    hints = typing.get_type_hints(record)
    fields = {f.name: f for f in dataclasses.fields(record)}  # type: ignore[arg-type]
    values = {}
    for key in config:
        if key not in fields:
            raise unknown(f"{where}.{key}", [f"{where}.{name}" for name in fields])
        values[key] = _value(hints[key], config[key], f"{where}.{key}")
    for name, field in fields.items():
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if required and name not in values:
            raise ExperimentError(f"{where}.{name} is missing: add it to the config")
    return record(**values)


def unknown(key: str, known: Iterable[str]) -> ExperimentError:
    """The error for a key that no config has, naming the nearest that one has."""
    names = {name.split(".", 1)[-1]: name for name in known}  # "config." would make all alike
    close = difflib.get_close_matches(key.split(".", 1)[-1], names, n=1, cutoff=0.5)
    hint = f"did you mean {names[close[0]]}?" if close else f"there are {', '.join(names.values())}"
    return ExperimentError(f"there is no {key}: {hint}")


def flat_keys(config: ConfigDict, prefix: str = "config") -> list[str]:
    """Every key of a nested config: `config.model`, `config.cliff.layers`, …"""
    keys = []
    for key in config:
        keys.append(f"{prefix}.{key}")
        if isinstance(config[key], ConfigDict):
            keys += flat_keys(config[key], f"{prefix}.{key}")
    return keys


def as_dict(record: Any) -> dict[str, Any]:
    """A frozen record as JSON takes it."""
    return dataclasses.asdict(record)


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, ConfigDict):
            raise ExperimentError(f"{where} must be a config of its own, not {value!r}")
        return freeze(typing.cast(type[Any], hint), value, where)
    if typing.get_origin(hint) is tuple:
        return _tuple(hint, value, where)
    if typing.get_origin(hint) is dict:
        return _dict(hint, value, where)
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        raise AssertionError(f"{where}: a config field has one type")
    number = hint is float and isinstance(value, int) and not isinstance(value, bool)
    exact = isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    if not (number or exact):
        raise ExperimentError(f"{where} must be of type {hint.__name__}, not {value!r}")
    return hint(value)


def _dict(hint: Any, value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, ConfigDict):
        raise ExperimentError(f"{where} must be a config of named configs, not {value!r}")
    record = typing.get_args(hint)[1]
    return {name: _value(record, value[name], f"{where}.{name}") for name in value}


def _tuple(hint: Any, value: Any, where: str) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, tuple | list):
        raise ExperimentError(f"{where} must be a tuple, for example \"('a', 'b')\", not {value!r}")
    inner = typing.get_args(hint)
    if len(inner) == 2 and inner[1] is Ellipsis:
        inner = (inner[0],) * len(value)
    if len(inner) != len(value):
        raise ExperimentError(f"{where} must have {len(inner)} parts, not {len(value)}: {value!r}")
    return tuple(
        _value(part, item, f"{where}[{i}]")
        for i, (part, item) in enumerate(zip(inner, value, strict=True))
    )
