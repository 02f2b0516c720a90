import dataclasses
import functools
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
import toy_chip
from toy_grid import toy_grid, toy_work, varied

import emu
from emu.design import SystemGrid, WorkGrid, blocks_of, computed, sweep
from emu.design import family as family_module
from experiments.steps_traced import decode_work


def check(block, results, work, rules, points, seed=0, tolerance=1e-9):
    """Random points of a block against `emu.predict` one at a time."""
    rng = np.random.default_rng(seed)
    shape = results["step_s"].shape
    for _ in range(points):
        i, j, k = (int(rng.integers(n)) for n in shape)
        batch, context = block.family.batches[i], block.family.contexts[j]
        system = block.systems.one(k)
        of = work(batch=batch, context=context)
        placement = emu.place(of, system, rules, allow_overflow=True)
        timeline = emu.predict(of, system, placement)
        assert results["step_s"][i, j, k] == pytest.approx(timeline.seconds, rel=tolerance)
        for part, seconds in timeline.breakdown.items():
            found = results[f"{part}_s"][i, j, k]
            assert found == pytest.approx(seconds, rel=tolerance, abs=tolerance * timeline.seconds)
        assert results["fits"][i, j, k] == (not placement.excess_bytes)
        if timeline.energy_j is not None:
            per_mtok = timeline.energy_j / batch * 1e6
            assert results["energy_j_per_mtok"][i, j, k] == pytest.approx(per_mtok, rel=tolerance)


SYSTEMS = {
    "h100, nothing ahead": ("h100", {"chips": 8, "tensor": 8, "stack": "vllm-0.19"}, "off-chip"),
    "v5e, one ahead": ("tpu-v5e", {"chips": 4, "tensor": 4, "stack": "vllm-tpu"}, "off-chip"),
    "v6e, all ahead": ("tpu-v6e", {"chips": 2, "tensor": 2}, "off-chip"),
    "lpu, stages": ("groq-lpu-v1", {"chips": 4, "tensor": 2, "pipeline": 2}, "on-chip"),
    "wafer": ("wse-3", {"stack": "cerebras-inference"}, "on-chip"),
    "a layer on two wafers": (
        "wse-3",
        {"chips": 2, "pipeline": 2, "stack": "cerebras-inference"},
        "on-chip",
    ),
    "v4, a small buffer": ("tpu-v4", {"stack": "vllm-tpu"}, "off-chip"),
    "from the host": ("tpu-v6e", {}, (("layers/**", "host"), ("**", "hbm"))),
    "one chip": ("mi300x", {"stack": "vllm-rocm-0.10"}, "off-chip"),
    "replicas": ("h200", {"chips": 4, "tensor": 2, "data": 2, "stack": "vllm-0.22"}, "off-chip"),
    "rules": ("b200", {"stack": "trtllm"}, (("layers/**", "on-chip"), ("**", "off-chip"))),
}


@pytest.mark.newest
@pytest.mark.parametrize("name", SYSTEMS)
def test_points_are_those_of_predict(name):
    _check_system(name)


@pytest.mark.parametrize("name", ["h100, nothing ahead", "v5e, one ahead", "wafer"])
def test_compiled_points_are_too(name, monkeypatch):
    monkeypatch.setattr(family_module, "_FEW", 0)
    _check_system(name)


def _check_system(name):
    chip, degrees, rules = SYSTEMS[name]
    system = emu.System(emu.chip(chip), **degrees)
    # Three layers: of two stages one has more than the other, and a layer lies on both wafers.
    work = functools.partial(toy_work, layers=3)
    works = dataclasses.replace(toy_grid(batch=(2, 4, 6, 16)), work=work)
    grids = [varied(system, 5)]
    if system.software.prefetch_kernels != 0:  # buffers that hold a part of what is fetched ahead
        sizes = {
            f"chip/{memory.name}/capacity_bytes": np.geomspace(1e4, 1e6, 5)
            for memory in system.chip.memories
            if memory.placement == "on-chip"
        }
        late = {"stack/per_kernel_s": np.full(5, 5e-6)}
        small = grids[0].numbers | sizes | late
        grids.append(SystemGrid(system=system, numbers=small, name="small buffers"))
    for block in blocks_of(works, grids, {"here": rules}):
        check(block, block.results(), work, rules, 25)


def test_where_what_fits_changes_from_point_to_point():
    # 2 layers in bfloat16 are 110 kB; buffers from a tenth of that to ten times as much.
    system = emu.System(toy_chip.chip(buffer=1e6))
    sizes = np.geomspace(1e4, 1e6, 9)
    grid = SystemGrid(system=system, numbers={"chip/sram/capacity_bytes": sizes})
    works = toy_grid(batch=(1, 2, 4, 64))
    for rules in ("fit", "on-chip", "off-chip"):
        blocks = list(blocks_of(works, [grid], [rules]))
        fits = []
        for block, results in computed(blocks, None):
            check(block, results, toy_work, rules, 20)
            fits.append(results["fits"])
        share = np.concatenate(fits, axis=-1).mean()
        assert 0 < share < 1 if rules == "on-chip" else share == 1


def test_what_is_full_to_the_last_byte_fits():
    weights = sum(x.bytes for x in toy_work(batch=1, context=16).leaves if x.kind == "weights")
    system = emu.System(toy_chip.chip(buffer=float(weights)))
    works = toy_grid(batch=tuple(range(1, 30)), context=tuple(range(16, 300, 7)))
    rules = (("cache/**", "off-chip"), ("**", "on-chip"))
    (block,) = blocks_of(works, [system], {"weights on chip": rules})
    results = block.results()
    check(block, results, toy_work, rules, 3)
    assert results["fits"].all()
    assert (results["missing_bytes"] == 0).all()


def test_experts_windows_and_packed_weights_of_a_real_architecture():
    def work(batch, context):
        return decode_work("gpt-oss-20b", "mxfp4-moe", "bf16", batch=batch, context=context)

    system = emu.System(emu.chip("h100"), chips=2, tensor=2, expert=2, stack="vllm-0.19")
    works = WorkGrid(work=work, batch=(1, 2, 5), context=(50, 100, 200, 400, 2000))
    (block,) = blocks_of(works, [varied(system, 3)], ["off-chip"])
    check(block, block.results(), work, "off-chip", 12, tolerance=1e-6)


def test_what_is_linear_is_traced_a_few_times_only():
    asked = []

    def work(batch, context):
        asked.append((batch, context))
        return toy_work(batch=batch, context=context)

    works = WorkGrid(work=work, batch=tuple(range(1, 65)), context=tuple(range(100, 2000, 10)))
    (block,) = blocks_of(works, [emu.System(emu.chip("h100"))], ["off-chip"])
    assert len(block) == 64 * 190
    assert len(asked) == len(set(asked)) < 60
    check(block, block.results(), toy_work, "off-chip", 25)


def test_a_table_has_every_point_in_order_and_says_what_it_is():
    systems = [emu.System(emu.chip("h100")), emu.System(emu.chip("mi300x"), stack="vllm-rocm-0.10")]
    works = toy_grid(batch=(1, 2), context=(16, 100), dtype=["bfloat16", "float32"])
    table = sweep(works, systems, ["off-chip", "on-chip"], progress=False)
    assert len(table) == 2 * 2 * 2 * 2 * 2
    assert list(table["batch"][:4]) == [1, 1, 2, 2]
    assert list(table["context"][:4]) == [16, 100, 16, 100]
    assert list(table["dtype"].unique()) == ["bfloat16", "float32"]
    assert list(table["system"].unique()) == ["1 x h100, ideal", "1 x mi300x, vllm-rocm-0.10"]
    assert set(table["binds"].unique()) <= set(emu.timeline.PARTS)
    assert (table["tokens_per_s_per_user"] * table["step_s"]).to_numpy() == pytest.approx(1.0)
    per_chip = table["batch"] / table["step_s"]
    assert table["tokens_per_s_per_chip"].to_numpy() == pytest.approx(per_chip.to_numpy())


def test_what_it_costs():
    priced = emu.Chip(
        **{**vars(toy_chip.chip()), "price_usd_per_hour": toy_chip.sourced(3600.0)},
    )
    table = sweep(toy_grid(batch=(4,)), [emu.System(priced)], ["off-chip"], progress=False)
    # A dollar a second: a million tokens take a million steps of four tokens.
    assert table["usd_per_mtok"].to_numpy() == pytest.approx(table["step_s"].to_numpy() * 1e6 / 4)
    assert table["energy_j_per_mtok"].isna().all()


def test_a_sweep_that_was_stopped_goes_on(tmp_path, monkeypatch):
    system = emu.System(emu.chip("h100"))
    axes = {"chip/hbm/bandwidth_bytes_per_s": np.geomspace(1e12, 1e13, 40)}
    grid = SystemGrid.product(system, axes)
    works = toy_grid()
    whole = sweep(works, [grid], ["off-chip"], progress=False)
    monkeypatch.setattr("emu.design.sweeping.blocks_of", _small_blocks)
    written = []

    def fails_after_three(self, block, results):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(block.number)
        write(self, block, results)

    write = emu.design.store.Store.write
    monkeypatch.setattr("emu.design.store.Store.write", fails_after_three)
    with pytest.raises(KeyboardInterrupt):
        sweep(works, [grid], ["off-chip"], to=tmp_path / "s", progress=False)
    assert len(list((tmp_path / "s").glob("part-*.parquet"))) == 3
    computed_again = []
    monkeypatch.setattr(
        "emu.design.store.Store.write",
        lambda self, block, results: (
            computed_again.append(block.number),
            write(self, block, results),
        ),
    )
    folder = sweep(works, [grid], ["off-chip"], to=tmp_path / "s", progress=False)
    assert sorted(written + computed_again) == list(range(10))
    table = pd.read_parquet(folder)
    by = ["batch", "context", *axes]
    pd.testing.assert_frame_equal(
        table.sort_values(by, ignore_index=True)[["step_s", *by]],
        whole.sort_values(by, ignore_index=True)[["step_s", *by]],
    )


def _small_blocks(*given):
    return blocks_of(*given, block_points=64)


def test_a_folder_of_another_sweep_is_refused(tmp_path):
    works, system = toy_grid(batch=(1,), context=(16, 32)), emu.System(emu.chip("h100"))
    sweep(works, [system], ["off-chip"], to=tmp_path / "s", progress=False)
    with pytest.raises(emu.EmuError, match="a sweep of other systems"):
        sweep(works, [system], ["on-chip"], to=tmp_path / "s", progress=False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("all my work")
    with pytest.raises(emu.EmuError, match="is not empty"):
        sweep(works, [system], ["on-chip"], to=tmp_path / "mine", progress=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(emu.EmuError, match="cannot hold a sweep"):
        sweep(works, [system], ["on-chip"], to=tmp_path / "file", progress=False)


@pytest.mark.slow
def test_a_lost_workers_blocks_are_done_again():
    script = Path(__file__).with_name("ray_sweep.py")
    root = script.parents[2]
    environment = os.environ | {"PYTHONPATH": f"{root}:{script.parent}"}
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=root,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["killed"]
    assert said["order"] == list(range(len(said["order"])))
    assert all(said["equal"])


def test_what_was_being_written_when_it_was_killed_is_in_nobodys_way(tmp_path):
    works, system = toy_grid(batch=(1,), context=(16, 32)), emu.System(emu.chip("h100"))
    sweep(works, [system], ["off-chip"], to=tmp_path, progress=False)
    (tmp_path / "_writing-part-000000.parquet.7").write_bytes(b"half of it")
    assert len(pd.read_parquet(tmp_path)) == 2
    sweep(works, [system], ["off-chip"], to=tmp_path, progress=False)
    assert not list(tmp_path.glob("_writing*"))


def test_grids_of_different_numbers_keep_their_columns_on_disk(tmp_path):
    h100, mi300x = emu.System(emu.chip("h100")), emu.System(emu.chip("mi300x"))
    names = ["chip/hbm/bandwidth_bytes_per_s", "chip/power_w"]
    grids = [
        h100,
        SystemGrid(system=h100, numbers={names[0]: [1e12, 2e12]}, name="faster"),
        SystemGrid(system=mi300x, numbers={names[1]: [500.0]}),
    ]
    works = toy_grid(batch=(1,), context=(16,))
    here = sweep(works, grids, ["off-chip"], progress=False)
    there = pd.read_parquet(sweep(works, grids, ["off-chip"], to=tmp_path, progress=False))
    assert list(here["position"]) == [0, 0, 1, 0]
    assert here[names[0]].isna().tolist() == [True, False, False, True]
    pd.testing.assert_frame_equal(
        here.astype({"system": str, "placement": str, "binds": str}),
        there.astype({"system": str, "placement": str, "binds": str}),
    )


def test_batches_that_replicas_do_not_share_evenly():
    work = functools.partial(decode_work, "llama-3.2-1b", "fp8", "fp8")
    padding = emu.System(emu.chip("tpu-v6e"), chips=4, tensor=2, data=2, stack="vllm-tpu")
    works = WorkGrid(work=work, batch=(2, 4, 6, 7, 8, 12), context=(1000, 2000))
    (block,) = blocks_of(works, [padding], ["off-chip"])
    check(block, block.results(), work, "off-chip", 12)
    strict = emu.System(emu.chip("h100"), chips=4, tensor=2, data=2, stack="vllm-0.19")
    with pytest.raises(emu.EmuError, match="7 sequences over data=2: not divisible"):
        list(blocks_of(works, [strict], ["off-chip"]))


WRONG = [
    ({"batch": (2, 1)}, "batch must be rising"),
    ({"batch": ()}, "batch must be rising"),
    ({"context": (1.5,)}, "context must be rising"),
    ({"batch": (0, 1)}, "at least 1"),
    ({"batch": ("a",)}, "batch must be rising"),
    ({"batch": 4}, "batch must be rising"),
    ({"dtype": "bfloat16"}, "'dtype' is a list of values, not 'bfloat16'"),
]


@pytest.mark.parametrize(("given", "message"), WRONG)
def test_grids_that_are_none(given, message):
    with pytest.raises(emu.EmuError, match=message):
        toy_grid(**given)


def test_numbers_that_are_none():
    system = emu.System(emu.chip("h100"))
    with pytest.raises(
        emu.EmuError, match="no number 'chip/hmb/bandwidth_bytes_per_s'; the nearest"
    ):
        SystemGrid(system=system, numbers={"chip/hmb/bandwidth_bytes_per_s": [1.0]})
    with pytest.raises(emu.EmuError, match="must be above 0"):
        SystemGrid(system=system, numbers={"chip/hbm/bandwidth_bytes_per_s": [0.0]})
    with pytest.raises(emu.EmuError, match="equally many"):
        SystemGrid(
            system=system,
            numbers={"chip/hbm/bandwidth_bytes_per_s": [1.0], "chip/hbm/latency_s": [1.0, 2.0]},
        )
    with pytest.raises(emu.EmuError, match="no column 'speed'"):
        sweep(toy_grid(), [system], ["off-chip"], columns=["speed"], progress=False)
    with pytest.raises(emu.EmuError, match="executor is"):
        sweep(toy_grid(), [system], ["off-chip"], executor="slurm", progress=False)
    with pytest.raises(emu.EmuError, match="8 chips share one copy"):
        sweep(toy_grid(), [emu.System(emu.chip("h100"), chips=8)], ["off-chip"], progress=False)
    with pytest.raises(emu.EmuError, match="two systems are called '1 x h100, ideal'"):
        sweep(toy_grid(), [system, system], ["off-chip"], progress=False)
    with pytest.raises(emu.EmuError, match="are lists"):
        sweep(toy_grid(), [system], "off-chip", progress=False)
    with pytest.raises(emu.EmuError, match="'dtype' has no values"):
        toy_grid(dtype=[])
    with pytest.raises(emu.EmuError, match="cannot be called 'system'"):
        sweep(toy_grid(system=[1]), [system], ["off-chip"], progress=False)
    with pytest.raises(emu.EmuError, match="does not divide over data=2"):
        sweep(
            toy_grid(batch=(3,)),
            [emu.System(emu.chip("h100"), chips=2, data=2)],
            ["off-chip"],
            progress=False,
        )


def test_what_is_no_grid():
    system = emu.System(emu.chip("h100"), stack="vllm-0.19")
    bandwidth = "chip/hbm/bandwidth_bytes_per_s"
    with pytest.raises(emu.EmuError, match="has values that are no numbers"):
        SystemGrid(system=system, numbers={bandwidth: ["fast"]})
    with pytest.raises(emu.EmuError, match="has values that are no numbers"):
        SystemGrid.product(system, {bandwidth: [[1e12], [1e12, 2e12]]})
    twice = SystemGrid(system=system, numbers={"stack/off_chip_share": [0.5, 2.0]})
    of_none = WorkGrid(work=lambda batch, context: None, batch=(1,), context=(1,))
    for works, systems, placements, message in (
        (None, [system], ["off-chip"], "works must be a WorkGrid"),
        (toy_grid(), [system.chip], ["off-chip"], "not of Chip"),
        (toy_grid(), [twice], ["off-chip"], "off_chip_share is a share above 0 and up to 1"),
        (toy_grid(), [system], [emu.Rule("**", "hbm")], "rules need a name"),
        (of_none, [system], ["off-chip"], "must give an emu.Work, not None"),
    ):
        with pytest.raises(emu.EmuError, match=message):
            sweep(works, systems, placements, progress=False)


def test_threads_do_not_change_the_callers_flags():
    before = threading.active_count()
    sweep(toy_grid(), [emu.System(emu.chip("h100"))], ["off-chip"], progress=False)
    assert not jax.config.jax_enable_x64
    assert threading.active_count() <= before + 2
