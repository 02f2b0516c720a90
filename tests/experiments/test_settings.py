import dataclasses

import pytest
from ml_collections import ConfigDict

from experiments.errors import ExperimentError
from experiments.settings import flat_keys, freeze


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    model: str
    layers: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    count: int = 3
    share: float = 0.5
    rules: tuple[tuple[str, str], ...] = ()
    inner: Inner = Inner(model="none")


def test_config_becomes_the_frozen_record() -> None:
    config = ConfigDict(
        {"name": "a", "share": 1, "rules": (("x", "y"),), "inner": {"model": "m", "layers": (1, 2)}}
    )
    record = freeze(Outer, config)
    assert record == Outer(
        name="a", share=1.0, rules=(("x", "y"),), inner=Inner(model="m", layers=(1, 2))
    )
    assert isinstance(record.share, float)
    hash(record)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "a", "cuont": 1}, r"there is no config\.cuont: did you mean config\.count\?"),
        (
            {"name": "a", "zzz": 1},
            r"there is no config\.zzz: there are config\.name, ",
        ),
        ({}, r"config\.name is missing"),
        ({"name": 1}, r"config\.name must be of type str, not 1"),
        ({"name": "a", "count": True}, r"config\.count must be of type int, not True"),
        ({"name": "a", "count": 1.5}, r"config\.count must be of type int, not 1\.5"),
        ({"name": "a", "rules": "x"}, r"config\.rules must be a tuple"),
        ({"name": "a", "rules": (("x",),)}, r"config\.rules\[0\] must have 2 parts, not 1"),
        ({"name": "a", "inner": 3}, r"config\.inner must be a config of its own, not 3"),
        (
            {"name": "a", "inner": {"model": "m", "layers": (1, "x")}},
            r"config\.inner\.layers\[1\] must be of type int, not 'x'",
        ),
    ],
)
def test_what_cannot_be_frozen(config: dict[str, object], message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        freeze(Outer, ConfigDict(config, convert_dict=True))


def test_flat_keys_go_into_nested_configs() -> None:
    config = ConfigDict({"a": 1, "b": {"c": 2}})
    assert flat_keys(config) == ["config.a", "config.b", "config.b.c"]
