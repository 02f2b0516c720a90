"""The sweep's own config on a TPU that is made up: VMEM against HBM, in Pallas' interpreter.

Made up are what JAX says of the device and what `emu.host()` measured of it; the kernel, the
placements, the rows and the report are those of a real one. Times are the interpreter's.
"""

import dataclasses
import functools
import sys

import jax
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import use_abstract_mesh

import emu.report
import kernels
import kernels.persistent
import kernels.products
from emu import host_file
from emu.machine import machine
from experiments import cliff, persistent, placements
from experiments.configs import quickstart, residency_cliff
from experiments.errors import ExperimentError
from experiments.run import chosen
from experiments.turns import by_turns
from experiments.workdir import open_results
from tests.experiments.conftest import made_up_host
from tests.experiments.test_persistent import V5E

MODEL = "tests/golden/tiny_llama"


@pytest.fixture
def tpu(monkeypatch, tmp_path):
    """What an accelerator is found by says that there is a v5e; its kernels are interpreted."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    for module in (kernels, kernels.products):
        monkeypatch.setattr(module, "native", lambda: False)
    device = dataclasses.replace(machine(), platform="tpu", name="TPU v5 lite")
    monkeypatch.setattr(sys.modules["emu.host"], "machine", lambda: device)
    monkeypatch.setattr(persistent, "STEPS", 1)  # the interpreter takes a fifth of a second for it
    monkeypatch.setattr(cliff, "by_turns", functools.partial(by_turns, warmup=1, turn_s=0.0))
    host_file.write(device, made_up_tpu())
    with use_abstract_mesh(V5E), pltpu.force_tpu_interpret_mode():
        yield


def made_up_tpu():
    probed = made_up_host()
    llc, dram, *kinds = probed.chip.memories
    own = (
        dataclasses.replace(llc, name="vmem", mechanism=persistent.PAIR),
        dataclasses.replace(dram, name="hbm", mechanism=persistent.PAIR),
    )
    return dataclasses.replace(
        probed, chip=dataclasses.replace(probed.chip, memories=(*own, *kinds))
    )


def sweep(workdir, **more):
    """`residency_cliff.py`, as it is but for what is given: its rows and its report."""
    config = residency_cliff.get_config()
    small = {"layers": (2,), "thin": (), "fresh_host": False, "rounds": 1, "samples": 1}
    config.update({"model": MODEL, **small, **more})
    experiment, settings = chosen(config)
    with open_results(str(workdir)) as results:
        keys = experiment.run(experiment.plan(settings), results)
        rows = [results[key] for key in keys]
        assert len(rows) == len(results.rows)
    return rows, emu.report.text(experiment.report(settings, rows))


def test_the_sweeps_own_config_finds_vmem_and_hbm(tpu, capsys, tmp_path):
    asked = {
        "dtypes": ("float32", "int8"),
        "placements": ("on-chip", "half-on-chip", "attention-on-chip"),
    }
    rows, text = sweep(tmp_path, **asked)
    measured = [row["measured"] for row in rows]
    found = {(m["pair"], m["on_chip"], m["off_chip"]) for m in measured}
    assert found == {("persistent-kernel", "vmem", "hbm")}
    assert [m["placement"] for m in measured] == ["on-chip", "half-on-chip"]
    assert [m["on_chip_bytes"] / m["weight_bytes"] for m in measured] == [1, 0.5]
    for m in measured:
        assert m["steps_per_sample"] == 1
        assert m["latency"]["median_s"] > 0
        assert m["predicted_s"] > 0
        assert "device_mean_s" in m
    assert "called: of the steps of one kernel" in text
    told = capsys.readouterr().err
    assert told.count("left out") == 4
    assert "attention-on-chip in float32: 1 row is left out: layer 0 is in hbm, vmem: a TP" in told
    assert "on-chip in int8: 1 row is left out: the weights are int8: a TPU's kernel takes" in told
    assert sweep(tmp_path, **asked)[0] == rows  # nothing is measured again


def test_what_the_kernel_cannot_take_is_refused(tpu, monkeypatch, tmp_path):
    with pytest.raises(ExperimentError, match="nothing is left to measure"):
        sweep(tmp_path, dtypes=("int8",))
    with pytest.raises(ExperimentError, match="pair=memory-kind takes any model"):
        sweep(tmp_path, model="tests/golden/tiny_qwen2")
    config = quickstart.get_config()
    config.model = config.cliff.model = config.humaneval.model = MODEL
    config.cliff.layers = (2,)
    config.humaneval.tasks = 1
    experiment, settings = chosen(config)
    sweep_of, answers = experiment.plan(settings)
    assert (sweep_of.pair, answers.pair) == (persistent.PAIR, "memory-kind")
    with pytest.raises(ExperimentError, match="is the residency sweep's alone"):
        placements.found_pair(persistent.PAIR)
    monkeypatch.setattr(kernels.persistent, "room_bytes", lambda: 0)  # as on a TPU v4
    assert placements.found_pair("found", in_one_kernel=True) == "memory-kind"
