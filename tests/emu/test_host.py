import dataclasses
import json
import logging
import re
import stat
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

import emu
from emu import host_file, probe, streams
from emu.chips import Chip, Curve, Memory, Sourced
from emu.edge import edge
from emu.errors import EmuError
from emu.host import __main__ as command
from emu.machine import Machine, machine, told_cache_bytes
from emu.streams import Stream, Timing

host_module = sys.modules["emu.host"]  # `emu.host` itself is the function

MB = 2**20
SETS = [n * MB for n in (4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 64, 96, 128)]
HIT, MISS = 1 / 100e9, 1 / 40e9


def times(capacity, sets=SETS):
    """Sets larger than the cache miss more and more; one half as large again misses all."""
    missing = [min(max(0.0, 2 * (size / capacity - 1)), 1.0) for size in sets]
    return [HIT + share * (MISS - HIT) for share in missing]


def test_the_edge_of_a_cache_is_where_repeated_reads_begin_to_miss():
    abrupt = [HIT if size <= 24 * MB else MISS for size in SETS]
    found = edge(SETS, abrupt)
    assert 24 * MB <= found.capacity_bytes <= 25 * MB
    assert 25 * MB <= found.reach_bytes <= 28 * MB
    assert found.hit_s_per_byte == HIT
    assert found.miss_s_per_byte == MISS


def test_one_disturbed_time_moves_no_edge():
    disturbed = [HIT if size <= 24 * MB else MISS for size in SETS]
    disturbed[1] *= 5
    disturbed[3] *= 5
    assert edge(SETS, disturbed).capacity_bytes == pytest.approx(24.4 * MB, rel=0.01)


def test_no_edge_is_seen_where_all_reads_take_the_same():
    assert edge(SETS, [HIT] * len(SETS)) is None
    assert edge(SETS, [HIT * (1 + 0.05 * (i % 3)) for i in range(len(SETS))]) is None


@given(st.integers(9, 40), st.integers(9, 40))
def test_a_larger_cache_never_has_a_smaller_edge(small, large):
    small, large = sorted((small, large))
    one, other = edge(SETS, times(small * MB)), edge(SETS, times(large * MB))
    assert one.capacity_bytes <= other.capacity_bytes * 1.001
    assert one.capacity_bytes <= one.reach_bytes
    assert 0.8 * small * MB < one.capacity_bytes < 1.4 * small * MB


def test_the_last_level_cache_is_summed_over_the_groups_of_cores_that_share_one(tmp_path):
    for cpu, shared in ((0, "0-1"), (1, "0-1"), (2, "2-3")):
        for index, (level, kind, size, group) in enumerate(
            [
                ("1", "Data", "32K", str(cpu)),
                ("1", "Instruction", "64M", str(cpu)),
                ("2", "Unified", "1024K", str(cpu)),
                ("3", "Unified", "16M", shared),
            ]
        ):
            folder = tmp_path / f"cpu{cpu}" / "cache" / f"index{index}"
            folder.mkdir(parents=True)
            for name, text in (
                ("level", level),
                ("type", kind),
                ("size", size),
                ("shared_cpu_list", group),
            ):
                (folder / name).write_text(text + "\n")
    assert told_cache_bytes(tmp_path) == 32 * MB
    (tmp_path / "cpu2" / "cache" / "index3" / "size").unlink()
    assert told_cache_bytes(tmp_path) == 16 * MB
    assert told_cache_bytes(tmp_path / "nothing") is None


@pytest.mark.parametrize("dtype", streams.DTYPES)
@pytest.mark.newest
def test_a_stream_reads_what_it_says_and_leaves_its_vector_as_it_is(dtype):
    stream = Stream.cold(dtype, 100_000, 20 * 100_000)
    leaves = jax.tree.leaves(stream.sets)
    pointers = {leaf.unsafe_buffer_pointer() for leaf in leaves}
    assert len(pointers) == len(leaves)  # separate buffers
    assert sum(leaf.nbytes for leaf in leaves) == stream.read_bytes * sum(map(len, stream.sets))
    assert stream.read_bytes == pytest.approx(100_000, rel=0.2)
    out = streams._chain(jnp.ones(stream.side), stream.sets[0], 2, False)
    np.testing.assert_allclose(out, 1, rtol=0.05)
    timing = dataclasses.replace(stream, sets=stream.sets[:1]).seconds_per_read(tries=1)
    assert 1e6 < timing.bytes_per_s < 1e13


def test_a_stream_from_another_memory_kind():
    stream = Stream.fetched("float32", 100_000, "pinned_host")
    assert {leaf.sharding.memory_kind for leaf in jax.tree.leaves(stream.sets)} == {"pinned_host"}
    timing = stream.seconds_per_read(tries=1)
    assert timing.seconds > 0


def sourced(value, **more):
    return Sourced(value=value, source="a test", kind="measured", **more)


def some_chip(bandwidth=1e9):
    curve = Curve(
        dtype="int8",
        read_bytes=(1.0, 2.0),
        bytes_per_s=(bandwidth, 2e9),
        source="a test",
        kind="measured",
    )
    memories = tuple(
        Memory(
            name=name,
            placement=placement,
            capacity_bytes=sourced(32e6, high=40e6),
            bandwidth_bytes_per_s=sourced(bandwidth),
            latency_s=sourced(1e-7),
            curves=(curve,),
            mechanism=mechanism,
        )
        for name, placement, mechanism in (
            ("llc", "on-chip", "rotation"),
            ("dram", "off-chip", "rotation"),
            ("device", "on-chip", "memory-kind"),
            ("pinned_host", "off-chip", "memory-kind"),
        )
    )
    return Chip(
        name="host", vendor="a test", memories=memories, peak_flops_per_s={"float32": sourced(1e11)}
    )


def some_probed(bandwidth=1e9, disturbed_share=0.0):
    return probe.Probed(
        chip=some_chip(bandwidth),
        per_step_s=sourced(2e-5),
        per_kernel_s=sourced(3e-6),
        disturbed_share=disturbed_share,
    )


@pytest.fixture
def kept_here(tmp_path, monkeypatch):
    """An empty folder for the file, and a probe that counts how often it is asked."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = []

    def probed(here):
        asked.append(here)
        return some_probed(bandwidth=float(len(asked)))

    monkeypatch.setattr(host_module, "probe", probed)
    return asked


@pytest.mark.newest
def test_the_machine_is_measured_once_and_again_on_request(kept_here):
    first = emu.host()
    assert emu.host() == first
    assert len(kept_here) == 1
    assert emu.host(refresh=True) == emu.host() == some_chip(bandwidth=2.0)
    assert len(kept_here) == 2
    assert not list(host_file.folder().glob("*.part"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:100],
        lambda text: "",
        lambda text: "[1, 2]",
        lambda text: "null",
        lambda text: text.replace('"schema": 3', '"schema": 99'),
        lambda text: text.replace('"cores": ', '"cores": 1'),
        lambda text: text.replace('"value": 1.0', '"value": "fast"'),
        lambda text: text.replace('"value": 1.0', '"value": -1.0'),
        lambda text: text.replace('"llc"', '"dram"'),
        lambda text: text.replace('"per_kernel_s"', '"per_kernel"'),
        lambda text: text.replace('"source"', '"sources"'),
        lambda text: text.replace('"memories": [', '"memories": 3, "other": ['),
    ],
)
def test_a_damaged_file_is_told_of_and_measured_again(kept_here, caplog, damage):
    emu.host()
    path = host_file.path_of(machine())
    text = path.read_text()
    path.write_text(damage(text))
    assert path.read_text() != text
    with caplog.at_level(logging.WARNING):
        assert emu.host() == some_chip(bandwidth=2.0)
    assert "measuring this machine again" in caplog.text
    assert emu.host() == some_chip(bandwidth=2.0)  # and kept
    assert len(kept_here) == 2


def test_a_file_that_is_no_text_is_measured_again(kept_here, caplog):
    emu.host()
    host_file.path_of(machine()).write_bytes(b"\xff\xfe\x00")
    with caplog.at_level(logging.WARNING):
        emu.host()
    assert "cannot be read" in caplog.text


def test_where_nothing_can_be_kept_the_measurement_is_returned_all_the_same(
    kept_here, monkeypatch, tmp_path, caplog
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "folder"))
    with caplog.at_level(logging.WARNING):
        assert emu.host() == some_chip(bandwidth=1.0)
    assert "is not kept" in caplog.text


def test_a_disturbed_measurement_is_told_of_once(kept_here, monkeypatch, caplog):
    host_module._tell_disturbed.cache_clear()
    with caplog.at_level(logging.WARNING):
        for share in (0.5, 0.75):
            monkeypatch.setattr(
                host_module, "probe", lambda here, share=share: some_probed(disturbed_share=share)
            )
            emu.host(refresh=True)
            emu.host()
            emu.host_stack()
    for told in ("50 % of the timings of host were disturbed", "75 % of the timings"):
        assert caplog.text.count(told) == 1
    assert "python -m emu.host --refresh" in caplog.text


def test_the_stack_is_what_was_measured_with_the_chip(kept_here):
    stack = emu.host_stack()
    assert (stack.per_step_s.value, stack.per_kernel_s.value) == (2e-5, 3e-6)
    assert stack.prefetch_kernels == 0
    assert emu.host() == some_chip(bandwidth=1.0)
    assert len(kept_here) == 1  # one measurement for both


def test_one_pair_of_memories_can_be_asked_for(kept_here):
    assert [m.name for m in emu.host(pair="memory-kind").memories] == ["device", "pinned_host"]
    assert [m.name for m in emu.host(pair="rotation").memories] == ["llc", "dram"]
    with pytest.raises(EmuError, match="has no pair 'tape': it has memory-kind, rotation"):
        emu.host(pair="tape")


def test_another_machine_has_another_file():
    here = machine()
    files = {
        host_file.path_of(dataclasses.replace(here, **{field.name: "other"})).name
        for field in dataclasses.fields(Machine)
    }
    assert len(files | {host_file.path_of(here).name}) == len(dataclasses.fields(Machine)) + 1


def test_the_file_is_readable_json(kept_here):
    emu.host()
    path = host_file.path_of(machine())
    kept = json.loads(path.read_text())
    assert kept["machine"]["jax_version"] == jax.__version__
    assert kept["chip"]["memories"][0]["capacity_bytes"]["kind"] == "measured"
    assert stat.S_ISREG(path.stat().st_mode)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="checks what is found on a CPU")
def test_a_small_probe_finds_both_pairs_of_memories(monkeypatch):
    monkeypatch.setattr(probe, "READS", (65_536, 262_144))
    monkeypatch.setattr(probe, "LARGEST", dict.fromkeys(streams.DTYPES, 262_144))
    monkeypatch.setattr(probe, "LARGEST_SET_BYTES", 4 * MB)
    monkeypatch.setattr(probe, "told_cache_bytes", lambda: 2 * MB)
    monkeypatch.setattr(probe, "FLOPS_SIDE", 64)
    monkeypatch.setattr(streams, "ROUNDS", 2)
    monkeypatch.setattr(streams, "CHAIN", 8)
    monkeypatch.setattr(streams, "ROUND_S", 0.0005)
    probed = probe.probe(machine())
    chip = probed.chip
    assert 0 <= probed.disturbed_share <= 1
    assert 0 <= probed.per_step_s.value < 1
    assert 0 <= probed.per_kernel_s.value < 1e-3
    assert [(m.name, m.mechanism) for m in chip.memories] == [
        ("llc", "rotation"),
        ("dram", "rotation"),
        ("device", "memory-kind"),
        ("pinned_host", "memory-kind"),
    ]
    for memory in chip.memories:
        assert {curve.dtype for curve in memory.curves} == set(streams.DTYPES)
        assert 1e-9 < memory.seconds(100_000, "bfloat16") < 1
        assert 1e6 < memory.bandwidth_bytes_per_s.value < 1e14
    assert chip.memory("dram").capacity_bytes.value > 100 * MB
    assert set(chip.peak_flops_per_s) == {"float32", "bfloat16"}


@pytest.mark.parametrize("told", [None, 8 * MB])
def test_without_an_edge_the_capacity_is_an_assumed_one_with_a_range(told):
    capacity = probe._cache_capacity(None, told, "a test")
    assert capacity.kind == "assumed"
    assert capacity.low < capacity.value < capacity.high
    assert capacity.value == told or told is None


def test_the_edge_is_looked_for_beyond_what_the_system_tells(monkeypatch):
    """A machine told of 8 MB, whose cache really holds 40."""
    bars = type("Bar", (), {"update": lambda self: None})()
    prober = probe.Prober(machine(), bars)

    def timed(stream):
        size = stream.read_bytes * 4 * len(stream.sets)
        return Timing(read_bytes=100, seconds=100 * (HIT if size <= 40 * MB else MISS), calm=True)

    monkeypatch.setattr(prober, "time", timed)
    found = probe._find_edge(prober, 8 * MB)
    assert 32 * MB <= found.capacity_bytes <= 64 * MB


@pytest.fixture
def quick_probe(monkeypatch):
    """Sizes that are next to nothing, and times that are made up."""
    for sizes in ("FETCHES", "READS", "HELD_READS"):
        monkeypatch.setattr(probe, sizes, (100_000,))
    monkeypatch.setattr(probe, "PAST_ANY_CACHE_BYTES", MB)
    monkeypatch.setattr(probe, "FLOPS_SIDE", 64)
    monkeypatch.setattr(
        Stream,
        "seconds_per_read",
        lambda self, tries: Timing(read_bytes=100, seconds=1e-6, calm=True),
    )


def probed_tpu(kind):
    device = AbstractDevice(device_kind=kind, num_cores=1, platform="tpu")
    with use_abstract_mesh(AbstractMesh((), (), abstract_device=device)):
        return probe.probe(dataclasses.replace(machine(), platform="tpu", name=kind)).chip


def test_a_tpus_scratchpad_and_its_memory_kinds(quick_probe):
    chip = probed_tpu("TPU v5 lite")
    assert [(m.name, m.placement, m.mechanism) for m in chip.memories] == [
        ("vmem", "on-chip", "persistent-kernel"),
        ("hbm", "off-chip", "persistent-kernel"),
        ("device", "on-chip", "memory-kind"),
        ("pinned_host", "off-chip", "memory-kind"),
    ]
    vmem, hbm, device, _ = chip.memories
    assert vmem.capacity_bytes.value == 112 * MB
    assert {curve.dtype for curve in vmem.curves} == {"float32", "bfloat16"}
    assert hbm.capacity_bytes.value == emu.chip("tpu-v5e").memory("hbm").capacity_bytes.value
    assert {curve.dtype for curve in hbm.curves} == set(streams.DTYPES)
    assert device.curves == hbm.curves  # it is the same memory


@pytest.mark.parametrize("kind", ["TPU v3", "TPU v99"])
def test_a_tpu_without_room_or_unknown_has_only_its_memory_kinds(quick_probe, kind):
    chip = probed_tpu(kind)
    assert [(m.name, m.placement) for m in chip.memories] == [
        ("device", "on-chip"),
        ("pinned_host", "off-chip"),
    ]
    assert chip.name == f"host ({kind})"


def test_a_gpu_has_both_pairs(monkeypatch):
    monkeypatch.setattr(probe, "READS", (65_536,))
    monkeypatch.setattr(probe, "FETCHES", (100_000,))
    monkeypatch.setattr(probe, "PAST_ANY_CACHE_BYTES", MB)
    monkeypatch.setattr(probe, "FLOPS_SIDE", 64)
    monkeypatch.setattr(probe, "UNTOLD_CACHE_BYTES", MB)
    monkeypatch.setattr(probe, "LARGEST_SET_BYTES", 4 * MB)
    monkeypatch.setattr(
        Stream,
        "seconds_per_read",
        lambda self, tries: Timing(read_bytes=100, seconds=1e-6, calm=True),
    )
    chip = probe.probe(dataclasses.replace(machine(), platform="gpu", name="H100")).chip
    assert [m.name for m in chip.memories] == ["l2", "hbm", "device", "pinned_host"]
    assert chip.memory("l2").capacity_bytes.kind == "assumed"  # all reads took the same


def test_the_command_prints_the_memories_and_refreshes(kept_here, capsys):
    assert command.main([]) == 0
    printed = capsys.readouterr()
    assert printed.err == "measuring this machine's memories, once: about a minute\n"
    assert re.search(r"llc +on-chip +rotation +[\d.,]+ +[\d.]+\n", printed.out)
    assert str(host_file.path_of(machine())) in re.sub(r"\s", "", printed.out)  # may be broken
    assert command.main([]) == 0
    assert capsys.readouterr().err == ""
    assert len(kept_here) == 1
    assert command.main(["--refresh"]) == 0
    assert len(kept_here) == 2


def test_the_command_refuses_in_one_line(kept_here, capsys):
    with pytest.raises(SystemExit) as end:
        command.main(["--refrsh"])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: unrecognized arguments: --refrsh; --help")
    assert not kept_here


def test_the_command_starts_without_a_warning():
    line = [sys.executable, "-W", "error", "-m", "emu.host", "--help"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr == ""
    assert "--refresh" in done.stdout
