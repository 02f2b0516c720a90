"""A decoder over a mesh of 8 host devices: the logits of one, and the exchanges of `emu.spread`."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import emu
from models.cache import new_cache
from models.config import DecoderConfig
from models.shapes import shapes
from models.steps import decode_step

ROOT = Path(__file__).parent.parent.parent
DENSE = {
    "tensor": {"degrees": {"tensor": 8}, "placed": True},
    "scanned, more ranks than heads of keys": {
        "degrees": {"tensor": 8},
        "kv_heads": 4,
        "scanned": True,
    },
    "replicas": {"degrees": {"tensor": 4, "data": 2}, "batch": 8, "placed": True},
}
EXPERTS = {
    "regrouped": {"degrees": {"tensor": 8, "expert": 4}, "experts": 8, "shared": 64},
    "an axis of their own": {"degrees": {"tensor": 2, "expert": 4}, "experts": 8},
    "over replicas": {
        "degrees": {"tensor": 4, "data": 2, "expert": 8},
        "experts": 8,
        "batch": 2,
    },
}
MESHES = {
    "tensor": {"tensor": 8},
    "scanned, more ranks than heads of keys": {"tensor_0": 4, "tensor_1": 2},
    "replicas": {"data": 2, "tensor": 4},
    "regrouped": {"tensor_0": 4, "tensor_1": 2},
    "an axis of their own": {"expert": 4, "tensor": 2},
    "over replicas": {"data": 2, "tensor": 4},
}


@pytest.fixture(scope="module")
def found():
    """What was found of each case, from one process with 8 devices."""
    cases = {**DENSE, **EXPERTS}
    done = subprocess.run(
        [sys.executable, "-m", "tests.emu.sharded_decoders", json.dumps(list(cases.values()))],
        cwd=ROOT,
        env={
            **os.environ,
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
            "JAX_PLATFORMS": "cpu",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(zip(cases, json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.mark.parametrize("case", [*DENSE, *EXPERTS])
def test_logits_are_those_of_one_device(found, case):
    # Sums of partial sums: float32's rounding over sums of 256 terms, relative to the largest.
    assert found[case]["off"] < 2e-6 * found[case]["scale"]
    assert found[case]["scale"] > 0.1
    assert found[case]["mesh"] == MESHES[case]


@pytest.mark.parametrize("case", [*DENSE, *EXPERTS])
def test_each_device_holds_what_the_spread_says(found, case):
    assert found[case]["held_bytes"] == found[case]["rank_bytes"]


@pytest.mark.parametrize("case", DENSE)
def test_xla_exchanges_what_the_spread_says(found, case):
    # Two sums to a layer, one for the embedding, and the logits gathered; byte for byte.
    assert found[case]["xla"] == found[case]["emu"]
    assert sum(n for kind, _, n in found[case]["emu"] if kind == "all_reduce") == 5


@pytest.mark.parametrize("case", [name for name, case in DENSE.items() if "placed" in case])
def test_rules_hold_on_each_shard(found, case):
    # As many copies as outlast a device's own cache of 150 kB, eight times over.
    off_chip = found[case]["far_bytes_of_one"]
    assert found[case]["copies"] == -(-8 * 150_000 // off_chip) > 1
    assert found[case]["same"]  # to the bit


def traced(heads=16, kv_heads=8, batch=1):
    of = DecoderConfig(
        vocab_size=512,
        layers=1,
        width=128,
        heads=heads,
        kv_heads=kv_heads,
        head_width=16,
        mlp_width=256,
        max_context=64,
        tied_embeddings=False,
    )
    cache = jax.eval_shape(functools.partial(new_cache, of, batch=batch, length=32))
    tokens = jax.ShapeDtypeStruct((batch, 1), jnp.int32)
    step = functools.partial(decode_step, of)
    return emu.trace(step, shapes(of), cache, tokens, weights=0, cache=1)


@pytest.mark.parametrize(
    ("work", "degrees", "message"),
    [
        (
            {"heads": 9, "kv_heads": 3},
            {"chips": 2, "tensor": 2},
            r"9 heads .* 2 tensor ranks: not div",
        ),
        ({}, {"chips": 8, "tensor": 8}, r"8 ranks need as many devices, and there are 1"),
        ({}, {"chips": 2, "pipeline": 2}, r"pipeline stages are no axis of a mesh"),
        ({"batch": 3}, {"chips": 2, "data": 2}, r"3 sequences over data=2: not divisible"),
    ],
)
def test_a_mesh_that_cannot_be_is_refused(work, degrees, message):
    system = emu.System(emu.chip("h100"), **degrees)
    with pytest.raises(emu.EmuError, match=message) as refused:
        emu.shard(traced(**work), system)
    assert "\n" not in str(refused.value)


def test_one_device_is_a_mesh_too():
    layout = emu.shard(traced(), emu.System(emu.chip("h100"), chips=1))
    assert dict(layout.mesh.shape) == {"tensor": 1}
