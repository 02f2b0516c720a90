import dataclasses
import importlib

import pytest
from ml_collections import ConfigDict

from experiments import cliff, cliff_sizes, decode_latency, placements
from experiments.errors import ExperimentError
from experiments.run import EXPERIMENTS, chosen, load
from experiments.turns import by_turns
from models.weights import reads_in_place
from tests.experiments.test_run import MODEL


@pytest.mark.parametrize("kind", [cliff.Settings, decode_latency.Settings])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dtypes": ("int3",)}, "there is no dtype 'int3': there are float32, bfloat16, int8"),
        ({"dtypes": ()}, "name each dtype once"),
        ({"dtypes": ("int8", "int8")}, "name each dtype once"),
        ({"pair": "magic"}, "there is no pair 'magic': there are found, rotation, p"),
        ({"placements": ("nowhere",)}, "there is no placement 'nowhere': there are on-chip"),
        ({"placements": ()}, "name at least one placement"),
        ({"placements": ("fit", "fit")}, "a placement is named twice"),
        ({"placements": ("rules",)}, "go together: give both"),
        ({"rules": (("**", "on-chip"),)}, "go together: give both"),
        ({"context": -1}, "context must be at least"),
    ],
)
def test_settings_are_checked(kind: type, fields: dict[str, object], message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        kind(model="m", **fields)


def test_sizes_are_checked() -> None:
    for name in ("rounds", "samples"):
        with pytest.raises(ExperimentError, match=f"{name} must be at least 1, not 0"):
            cliff.Settings(model="m", **{name: 0})
    with pytest.raises(ExperimentError, match="named twice"):
        cliff.Settings(model="m", layers=(1, 1))
    with pytest.raises(ExperimentError, match="'half-on-chip' would split stacked layers"):
        cliff.Settings(model="m", stacked=True, placements=("off-chip", "half-on-chip"))
    with pytest.raises(ExperimentError, match="holds layers one by one"):
        cliff.Settings(model="m", stacked=True, pair="persistent-kernel")
    with pytest.raises(ExperimentError, match="max_tokens must be at least 2, not 1"):
        decode_latency.Settings(model="m", max_tokens=1)


def test_rows_of_stacked_layers_have_keys_of_their_own() -> None:
    settings = decode_latency.Settings(
        model=str(MODEL), placements=("off-chip",), pair="memory-kind", tasks=1, max_tokens=2
    )
    whole = decode_latency.plan(settings)
    split = dataclasses.replace(settings, placements=("off-chip", "half-on-chip"))
    parted = decode_latency.plan(split)
    assert whole.stacked["float32"] == reads_in_place(whole.checkpoint.config, "float32")
    assert parted.stacked == {"float32": False}
    alike = set(whole.keys.values()) <= set(parted.keys.values())
    assert alike == (not whole.stacked["float32"])


def test_the_ladder_goes_to_all_layers() -> None:
    assert cliff_sizes.ladder(1) == (1,)
    assert cliff_sizes.ladder(2) == (1, 2)
    assert cliff_sizes.ladder(30) == (1, 2, 3, 4, 6, 8, 12, 16, 24, 30)


def test_named_placements_are_rules() -> None:
    assert placements.rules_of("fit", 30) == "fit"
    assert placements.rules_of("half-on-chip", 5)[0] == ("layers[:2]/**", "on-chip")
    assert placements.rules_of("rules", 5, (("**", "on-chip"),)) == (("**", "on-chip"),)
    assert not placements.applies("half-on-chip", 1)


def test_an_experiment_is_chosen_by_name() -> None:
    config = ConfigDict({"experiment": "humaneval", "model": "m"})
    experiment, settings = chosen(config)
    assert (experiment.run, experiment.settings) == (decode_latency.run, decode_latency.Settings)
    assert experiment == load("humaneval")
    assert settings == decode_latency.Settings(model="m")
    with pytest.raises(ExperimentError, match="no experiment 'x': there are residency_cliff"):
        chosen(ConfigDict({"experiment": "x"}))
    with pytest.raises(ExperimentError, match=r"config\.experiment is missing"):
        chosen(ConfigDict({"model": "m"}))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_can_be_loaded_and_has_the_name_that_it_is_chosen_by(name: str) -> None:
    module = importlib.import_module(load(name).run.__module__)
    assert getattr(module, "NAME", name) == name


def test_turns_are_taken_round_by_round() -> None:
    calls: list[str] = []
    latencies = by_turns(
        {name: lambda name=name: calls.append(name) for name in "ab"},
        rounds=2,
        samples=3,
        warmup=1,
        turn_s=0.0,
    )
    assert "".join(calls)[:16] == "aaaabbbbaaaabbbb"  # one to warm up and three samples a turn
    for latency in latencies.values():
        assert latency.count + latency.disturbed_count >= 6
