import types

import pytest

from emu import probe
from emu.catalogued import catalogue
from emu.device_kinds import chip_of, kinds, memory_of
from emu.machine import Machine

MB = 2**20


def test_every_kind_is_a_chip_of_the_catalogue():
    names = {chip.name for chip in catalogue()}
    assert set(kinds().values()) <= names
    assert len(kinds()) > 15


@pytest.mark.parametrize(
    ("kind", "chip", "near", "near_bytes", "far_bytes"),
    [
        ("NVIDIA H100 80GB HBM3", "h100", "l2", 50 * MB, 80e9),
        ("AMD Instinct MI300X", "mi300x", "infinity-cache", 256 * MB, 192e9),
        ("TPU v5 lite", "tpu-v5e", "vmem", 128 * MB, 17.2e9),
        ("TPU v6 lite", "tpu-v6e", "vmem", 128 * MB, 34.4e9),
    ],
)
def test_capacities_come_from_the_catalogue(kind, chip, near, near_bytes, far_bytes):
    assert chip_of(kind).name == chip
    on, off = memory_of(kind, "on-chip"), memory_of(kind, "off-chip")
    assert (on.name, on.capacity_bytes.value) == (near, near_bytes)
    assert (off.name, off.capacity_bytes.value) == ("hbm", far_bytes)


def test_a_kind_that_nobody_described_has_no_chip():
    assert chip_of("NVIDIA GeForce RTX 9090") is None
    assert memory_of("NVIDIA GeForce RTX 9090", "on-chip") is None


def test_the_probe_asks_the_catalogue_where_the_runtime_does_not_tell(monkeypatch):
    here = Machine(
        name="NVIDIA H100 80GB HBM3",
        vendor="nvidia",
        platform="gpu",
        cores=1,
        jax_version="0",
        products="plain",
        flags="",
    )
    monkeypatch.setattr(
        probe.jax, "local_devices", lambda: [types.SimpleNamespace(memory_stats=lambda: None)]
    )
    capacity = probe._device_capacity(probe.Prober(here, None))
    assert capacity.value == 80e9
    assert capacity.kind == "vendor"
