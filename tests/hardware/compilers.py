"""Accelerators' own compilers on a machine without one: devices to compile for, as JAX has them."""

import importlib.util
import os

import jax
import pytest
from jax.experimental import topologies

# What XLA asks a GPU about itself, of an H100: NVIDIA's data sheet and CUDA's tables for sm_90.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84929347584
  cuda_compute_capability { major: 9 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 7 }
runtime_version { major: 12 minor: 8 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def v5e(topology: str = "2x2") -> list[jax.Device]:
    """TPUs v5e; the test is skipped without libtpu."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip(f"needs libtpu: pip install 'jax[tpu]=={jax.__version__}'")
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # nobody is to be asked what this machine is
    return list(topologies.get_topology_desc(f"v5e:{topology}", "tpu").devices)


def h100() -> list[jax.Device]:
    """One H100; the test is skipped without XLA's plugin for CUDA, or without its assembler."""
    if not (_has("jax_plugins", "xla_cuda12") and _has("nvidia", "cuda_nvcc")):
        wanted = f"jax-cuda12-pjrt=={jax.__version__} nvidia-cuda-nvcc-cu12"
        pytest.skip(f"needs a compiler for CUDA: pip install --no-deps {wanted}")
    if jax.config.jax_platforms != "cpu":
        pytest.skip("needs JAX_PLATFORMS=cpu, else the plugin looks for a GPU")
    found = topologies.get_topology_desc(platform="cuda", topology="1x1x1", target_config=H100)
    return list(found.devices)


def _has(package: str, module: str) -> bool:
    return bool(
        importlib.util.find_spec(package) and importlib.util.find_spec(f"{package}.{module}")
    )
