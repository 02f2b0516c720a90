"""A machine whose memories are made up, and an S3-compatible server with one bucket in it."""

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import pytest

import emu
from emu import host_file
from emu.machine import machine
from emu.probe import Probed

TWO_DEVICES = "--xla_force_host_platform_device_count=2"
BUCKET = "results"
ACCESS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """Serves until the module's tests are over; gives (and sets) the environment to reach it by."""
    # A second to import, which most test files need not pay.
    import boto3  # noqa: PLC0415
    import s3fs  # noqa: PLC0415
    from moto.server import ThreadedMotoServer  # noqa: PLC0415

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {**ACCESS, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.delenv("AWS_PROFILE", raising=False)
        s3fs.S3FileSystem.clear_instance_cache()  # those of another module's server
        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET)
        yield {**os.environ, **environment}
        client.close()
    server.stop()


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An XDG cache that says what this machine's memories are: tiny, so that copies are few."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        here = machine()
        plain = dataclasses.replace(here, products="plain")  # as several devices have them
        for one in (here, plain, dataclasses.replace(plain, flags=TWO_DEVICES)):
            host_file.write(one, made_up_host())
    return {**os.environ, "XDG_CACHE_HOME": str(cache), "JAX_PLATFORMS": "cpu"}


def made_up_host() -> Probed:
    def number(value: float) -> emu.Sourced:
        return emu.Sourced(value=value, source="made up for a test", kind="assumed")

    def memory(name: str, placement: Any, mechanism: Any, capacity_bytes: float) -> emu.Memory:
        return emu.Memory(
            name=name,
            placement=placement,
            mechanism=mechanism,
            capacity_bytes=number(capacity_bytes),
            bandwidth_bytes_per_s=number(1e9),
            latency_s=number(1e-6),
        )

    chip = emu.Chip(
        name="host",
        vendor="nobody",
        memories=(
            memory("llc", "on-chip", "rotation", 40_000),
            memory("dram", "off-chip", "rotation", 1e10),
            memory("device", "on-chip", "memory-kind", 1e10),
            memory("pinned_host", "off-chip", "memory-kind", 1e10),
        ),
        peak_flops_per_s={"float32": number(1e11)},
    )
    return Probed(
        chip=chip, per_step_s=number(1e-5), per_kernel_s=number(2e-6), disturbed_share=0.0
    )
