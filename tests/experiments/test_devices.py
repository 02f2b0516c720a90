import dataclasses
import sys

import jax
import jax.numpy as jnp
import pytest

from emu.errors import EmuError
from emu.machine import machine
from experiments import devices, placements
from experiments.errors import ExperimentError


def test_the_device_that_is_there_passes():
    devices.check(None)
    devices.check("cpu")


@pytest.mark.parametrize(("asked", "remedy"), [("gpu", r"jax\[cuda12\]"), ("tpu", r"jax\[tpu\]")])
def test_no_accelerator_is_a_line_with_a_remedy(asked, remedy):
    with pytest.raises(ExperimentError, match=rf"--device={asked}, and JAX found cpu .*{remedy}"):
        devices.check(asked)


def test_the_pair_is_found_by_the_kind_of_device(monkeypatch):
    assert placements.found_pair("found") == "rotation"
    assert placements.found_pair("memory-kind") == "memory-kind"
    with pytest.raises(ExperimentError, match="no pair 'persistent-kernel': it has rotation, mem"):
        placements.found_pair("persistent-kernel", in_one_kernel=True)
    tpu = dataclasses.replace(machine(), platform="tpu", name="TPU v5 lite")
    monkeypatch.setattr(sys.modules["emu.host"], "machine", lambda: tpu)
    assert placements.found_pair("found") == "memory-kind"
    with pytest.raises(ExperimentError, match="no pair 'rotation': it has memory-kind"):
        placements.found_pair("rotation")


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([("none", "on-chip"), ("**", "off-chip")], "matches no leaf"),
        ([("mlp", "on-chip")], "no rule covers head"),
        ([("**", "hbm")], r"rule '\*\*' -> 'hbm': there is no such memory here by rotation"),
    ],
)
def test_rules_are_refused_before_anything_is_measured(rules, message):
    weights = {"mlp": jax.ShapeDtypeStruct((2, 2), "float32"), "head": jnp.ones(2)}
    placements.check_rules([("mlp", "llc"), ("**", "off-chip")], weights, "rotation")
    with pytest.raises((EmuError, ExperimentError), match=message):
        placements.check_rules(rules, weights, "rotation")
