import itertools
import os
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest

from emu import load
from emu.errors import EmuError
from emu.measure import Latency, Recorder, measure

HUNDRED = [i / 1000 for i in range(1, 101)]  # 1 to 100 ms


def test_a_latency_sums_up_its_samples():
    latency = Latency.of(HUNDRED)
    assert latency.median_s == pytest.approx(0.0505)
    assert latency.p10_s == pytest.approx(0.0109)
    assert latency.p90_s == pytest.approx(0.0901)
    assert latency.p99_s == pytest.approx(0.09901)
    assert latency.mean_s == pytest.approx(0.0505)
    assert (latency.count, latency.disturbed_count, latency.metered) == (100, 0, False)
    assert "not metered" in str(latency)


def test_disturbed_samples_are_set_apart_but_not_hidden():
    latency = Latency.of([*HUNDRED, 9.0], [False] * 100 + [True])
    assert latency.median_s == pytest.approx(0.0505)
    assert (latency.count, latency.disturbed_count) == (100, 1)
    assert latency.p99_s == pytest.approx(0.09901)
    assert latency.p99_all_s == pytest.approx(0.1)
    assert not latency.disturbed
    assert latency.metered
    assert "1% disturbed" in str(latency)
    assert Latency.of([1, 1, 5], [False, False, True]).disturbed  # a third is over 30 %


def test_when_all_samples_are_disturbed_there_are_figures_and_a_mark():
    latency = Latency.of([1.0, 2.0, 3.0], [True] * 3)
    assert (latency.median_s, latency.count, latency.disturbed_count) == (2.0, 3, 3)
    assert latency.disturbed


@pytest.mark.parametrize(
    ("samples", "marks", "message"),
    [
        ([], None, "at least one sample"),
        ([1.0, float("nan")], None, "finite"),
        ([1.0], [True, False], "1 samples, but 2 marks"),
    ],
)
def test_samples_that_are_none_are_refused(samples, marks, message):
    with pytest.raises(EmuError, match=message):
        Latency.of(samples, marks)


def stat(tmp_path, busy_ticks, idle_ticks=0, steal=0):
    file = tmp_path / f"stat{busy_ticks}-{idle_ticks}-{steal}"
    file.write_text(f"cpu  {busy_ticks} 0 0 {idle_ticks} 7 0 0 {steal} 0 0\ncpu0 1 1 1 1\n")
    return file


def test_what_others_used_is_all_that_was_busy_or_stolen_less_our_own(tmp_path):
    before, after = load.read(stat(tmp_path, 100, 50)), load.read(stat(tmp_path, 180, 90, steal=10))
    assert after.busy_s - before.busy_s == pytest.approx(0.9)
    before = load.Reading(wall_s=0.0, own_s=0.0, busy_s=before.busy_s)
    after = load.Reading(wall_s=1.0, own_s=0.5, busy_s=after.busy_s)
    assert load.others_share(before, after, cores=2) == pytest.approx(0.2)
    assert load.is_disturbed(before, after, cores=2)
    assert not load.is_disturbed(before, after, cores=8)  # 5 % of them
    assert load.others_share(before, load.Reading(wall_s=1, own_s=9, busy_s=before.busy_s)) == 0


def test_without_proc_stat_nothing_is_metered_and_that_is_said(tmp_path, monkeypatch):
    nowhere = load.read(tmp_path / "none")
    assert nowhere.busy_s is None
    (tmp_path / "odd").write_text("not a stat file")
    assert load.read(tmp_path / "odd").busy_s is None
    assert load.others_share(nowhere, nowhere) is None
    assert not load.is_disturbed(nowhere, nowhere)
    monkeypatch.setattr(load.read, "__defaults__", (tmp_path / "none",))
    latency = measure(lambda: None, samples=3, min_seconds=0)
    assert not latency.metered
    assert latency.count == 3


def clocks(monkeypatch, *others):
    """Windows of 1 s on 2 cores, all our own but for the CPU seconds that others took in each."""
    busy = itertools.accumulate((1 + extra for extra in others), initial=0.0)
    readings = [
        load.Reading(wall_s=float(at), own_s=float(at), busy_s=total)
        for at, total in enumerate(busy)
    ]
    monkeypatch.setattr(load, "read", iter(readings).__next__)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    return readings


def test_only_the_windows_that_others_disturbed_are_set_apart(monkeypatch):
    clocks(monkeypatch, 0.0, 0.8, 0.05)
    monkeypatch.setattr(time, "perf_counter", itertools.count(0.5, 0.5).__next__)
    recorder = Recorder(window_s=1.0)
    for sample in (1.0, 1.0, 8.0, 8.0, 2.0, 2.0):  # two to a window
        recorder.add(sample)
    latency = recorder.latency()
    assert recorder.samples_s == (1.0, 1.0, 8.0, 8.0, 2.0, 2.0)
    assert recorder.calm_count == 4
    assert (latency.median_s, latency.count, latency.disturbed_count) == (1.5, 4, 2)
    assert latency.p99_all_s > 7
    assert latency.disturbed


def test_a_restart_leaves_out_what_happened_before(monkeypatch):
    clocks(monkeypatch, 0.0, 1.0, 0.0)
    monkeypatch.setattr(time, "perf_counter", lambda: -1.0)  # no window closes by itself
    recorder = Recorder(window_s=1.0)
    recorder.restart()  # the clean first second holds no sample
    recorder.restart()  # nor does the disturbed one
    recorder.add(1.0)
    assert recorder.latency().disturbed_count == 0


@pytest.mark.newest
def test_measure_times_finished_work_and_carries_a_donated_state():
    step = jax.jit(lambda cache: cache + 1, donate_argnums=0)
    seen = []

    def call(cache):
        seen.append(int(cache[0]))
        return step(cache)

    latency = measure(call, carry=jnp.zeros(8), samples=10, warmup=2, min_seconds=0, patience=0)
    assert seen == list(range(12))
    assert latency.count + latency.disturbed_count >= 10
    assert 0 < latency.p10_s <= latency.median_s <= latency.p90_s <= latency.p99_s


def test_measure_goes_on_for_the_time_asked_for(monkeypatch):
    now = [0.0]

    def call():
        now[0] += 0.01

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    latency = measure(call, samples=2, warmup=0, patience=0, min_seconds=0.205)
    assert latency.count + latency.disturbed_count == 21
    assert latency.median_s == pytest.approx(0.01)


@pytest.mark.parametrize("options", [{"samples": 0}, {"warmup": -1}, {"patience": -1}])
def test_measure_refuses_nonsense(options):
    with pytest.raises(EmuError, match="samples must be at least 1"):
        measure(lambda: None, **options)


@pytest.mark.skipif(load.read().busy_s is None, reason="this system doesn't tell others' load")
def test_a_real_neighbour_is_noticed():
    neighbour_count = max(2, (os.cpu_count() or 1) // 2)
    spin = [sys.executable, "-c", "print(flush=True)\nwhile True: pass"]
    neighbours = [subprocess.Popen(spin, stdout=subprocess.PIPE) for _ in range(neighbour_count)]
    try:
        for neighbour in neighbours:
            neighbour.stdout.readline()  # it is there
        latency = measure(lambda: time.sleep(0.01), samples=20, warmup=0, patience=0)
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.communicate()
    assert latency.disturbed
    assert latency.median_s >= 0.01
