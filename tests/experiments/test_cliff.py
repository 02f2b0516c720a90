"""The sweep on a machine whose memories are made up, and give half of what they gave."""

import dataclasses
import functools

import pytest

import emu.report
from emu import host_file
from emu.chips import Curve
from emu.drift import Drift, Now
from emu.machine import machine
from experiments import cliff
from experiments.configs import residency_cliff
from experiments.run import chosen
from experiments.turns import by_turns
from experiments.workdir import open_results
from tests.experiments.conftest import made_up_host

MODEL = "tests/golden/tiny_llama"
THEN_S, SMALL_S = 1e-3, 1e-7  # of a read of 4,000 bytes or more, and of 3,000 or less
CURVE = Curve(
    dtype="float32",
    read_bytes=(3000, 4000, 1_000_000),
    bytes_per_s=(3000 / SMALL_S, 4000 / THEN_S, 1_000_000 / THEN_S),
    source="made up for a test",
    kind="assumed",
)


class HalfAsFast:
    """Reads that take twice as long as they took, and kernels that take 1 ms."""

    def __init__(self, chip, dtype, sizes):
        assert min(sizes) > 0
        self.memories = [(memory.name, dtype) for memory in chip.memories]
        self.turns = 0

    def take(self):
        self.turns += 1
        return self.turns

    def now(self, turns):
        assert turns == [self.turns]  # this size's alone
        reads = tuple(
            Drift(memory=name, dtype=dtype, read_bytes=1000, then_s=THEN_S, now_s=2 * THEN_S)
            for name, dtype in self.memories
        )
        return Now(reads=reads, per_step_s=1e-5, per_kernel_s=0.0)


@pytest.fixture
def sweep(monkeypatch, tmp_path):
    """Runs one layer of the tiny model; its rows and its report."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cliff, "by_turns", functools.partial(by_turns, warmup=1, turn_s=0.0))
    monkeypatch.setattr(cliff, "References", HalfAsFast)
    probed = made_up_host()
    memories = tuple(dataclasses.replace(m, curves=(CURVE,)) for m in probed.chip.memories)
    chip = dataclasses.replace(probed.chip, memories=memories)
    host_file.write(machine(), dataclasses.replace(probed, chip=chip))

    def run(**more):
        config = residency_cliff.get_config()
        small = {"layers": (1,), "thin": (), "fresh_host": False, "rounds": 1, "samples": 1}
        asked = {"dtypes": ("float32",), "placements": ("on-chip", "off-chip"), **more}
        config.update({"model": MODEL, **small, **asked})
        experiment, settings = chosen(config)
        with open_results(str(tmp_path / "workdir")) as results:
            keys = experiment.run(experiment.plan(settings), results)
            rows = [results[key] for key in keys]
        return rows, emu.report.text(experiment.report(settings, rows))

    return run


def test_rows_are_predicted_from_reads_timed_beside_them_and_without(sweep):
    rows, text = sweep()
    measured = [row["measured"] for row in rows]
    for m in measured:
        reads_s = 5 * THEN_S  # of a layer: four products, and attention's of the KV cache
        assert m["predicted_s"] - m["predicted_by_host_s"] == pytest.approx(reads_s, rel=0.01)
        products_s = 4 * THEN_S
        # The rest of a step is timed with products eight wide, which start as the others do.
        beside_s = m["rest_s"] - 2 * 4 * SMALL_S
        assert beside_s > 0
        for of_products in ("host_on_chip_s", "host_off_chip_s"):
            assert m[of_products] == pytest.approx(beside_s + 2 * products_s, abs=SMALL_S)
        error = m["predicted_s"] / m["latency"]["median_s"] - 1
        assert m["prediction_error"] == pytest.approx(error)
    now = measured[0]["now"]
    assert [one["memory"] for one in now["reads"]] == ["llc", "dram"]
    assert all(one["then_s"] / one["now_s"] == pytest.approx(0.5) for one in now["reads"])
    assert "now" not in measured[1]  # once for a size
    flat = " ".join(text.split())
    assert "llc gave 0.500 to 0.500 times and dram gave 0.500 to 0.500 times what emu.hos" in flat
    assert "How this machine drifted from what emu.host() had measured" in text


@pytest.mark.parametrize(
    "asked", [{"pair": "memory-kind"}, {"dtypes": ("bfloat16",)}], ids=["pair", "dtype"]
)
def test_where_nothing_can_be_timed_again_rows_are_predicted_from_the_host_alone(sweep, asked):
    for row in sweep(**asked)[0]:
        assert row["measured"]["predicted_s"] > 0
        assert not row["measured"].keys() & {"now", "predicted_by_host_s"}
