"""The exchanges that `emu.spread` finds are those that XLA's partitioner puts in."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
LAYERS = 2
TENSOR = {
    "scanned": {"degrees": {"tensor": 8}},
    "layers written out": {"degrees": {"tensor": 8}, "scanned": False},
    "more ranks than heads of keys": {"degrees": {"tensor": 8}, "kv_heads": 4, "scanned": False},
    "replicas": {"degrees": {"tensor": 4, "data": 2}, "batch": 8},
    "experts gathered": {"degrees": {"tensor": 8}, "experts": 8},
    "experts sorted": {"degrees": {"tensor": 8}, "experts": 8, "batch": 8},
    "shared expert": {"degrees": {"tensor": 8}, "experts": 8, "shared": 64, "scanned": False},
}
EXPERT = {
    "dense": {"degrees": {"tensor": 8, "expert": 8}, "experts": 8, "dense": True},
    "dense, regrouped": {"degrees": {"tensor": 8, "expert": 4}, "experts": 8, "dense": True},
    "gathered": {"degrees": {"tensor": 8, "expert": 8}, "experts": 8},
    "sorted": {"degrees": {"tensor": 8, "expert": 8}, "experts": 8, "batch": 8},
}


@pytest.fixture(scope="module")
def exchanges():
    """{case: {"emu": …, "xla": …}}, each a list of [kind, bytes, times], from one process."""
    cases = {**TENSOR, **{f"expert, {name}": case for name, case in EXPERT.items()}}
    flags = "--xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-m", "tests.emu.xla_exchanges", json.dumps(list(cases.values()))],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(zip(cases, json.loads(done.stdout.splitlines()[-1]), strict=True))


def times(found):
    """How often each kind is exchanged."""
    total = {}
    for kind, _, count in found:
        total[kind] = total.get(kind, 0) + count
    return total


@pytest.mark.parametrize("case", TENSOR)
def test_tensor_ranks_exchange_what_xla_does(exchanges, case):
    ours, xla = exchanges[case]["emu"], exchanges[case]["xla"]
    # Two to a layer, one for the embedding, one that gathers the logits.
    assert times(ours) == {"all_reduce": 2 * LAYERS + 1, "all_gather": 1}
    assert times(ours) == times(xla)
    if "expert" not in case:
        assert ours == xla  # byte for byte
    else:  # XLA sends the sums of each token's two experts apart; here they are added first
        more = LAYERS * 128 * 4 * TENSOR[case].get("batch", 1)
        assert sum(size * n for _, size, n in xla) - sum(size * n for _, size, n in ours) == more


def test_expert_ranks_exchange_what_xla_does_for_dense_products(exchanges):
    both = exchanges["expert, dense"]
    assert both["emu"] == both["xla"]
    # Where an expert's width is split too, XLA adds over one axis of its mesh after the other.
    both = exchanges["expert, dense, regrouped"]
    assert times(both["xla"])["all_reduce"] == times(both["emu"])["all_reduce"] + LAYERS


def test_xla_chooses_worse_for_experts_that_are_picked(exchanges):
    # Picking from experts that are spread, it adds up the picked *weights* over ranks, once a
    # layer: 3 x 2 matrices of 64 x 128 numbers, where servers send a vector of 128.
    both = exchanges["expert, gathered"]
    assert times(both["emu"]) == times(both["xla"])
    assert ["all_reduce", 3 * 2 * 64 * 128 * 4, LAYERS] in both["xla"]
    assert ["all_reduce", 128 * 4, 2 * LAYERS + 1] in both["emu"]
    # Of sorted tokens it adds every product's partial results, and gathers the experts' counts.
    both = exchanges["expert, sorted"]
    assert times(both["xla"])["all_reduce"] == times(both["emu"])["all_reduce"] + LAYERS
    assert times(both["xla"])["all_gather"] > times(both["emu"])["all_gather"]
