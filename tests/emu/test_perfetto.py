import json

import pytest
from toy_chip import chip, stack, work

import emu
from emu.placement import place
from emu.system import System
from emu.timing import predict


def test_a_trace_has_a_row_for_each_resource_and_ends_with_the_step(tmp_path):
    of = work((1000, 5000), (5000, 1000))
    system = System(chip(), stack=stack(per_kernel_s=0.5, prefetch_kernels=1))
    timeline = predict(of, system, place(of, system, "off-chip", activations="sram"))
    written = json.loads(emu.write_trace(timeline, tmp_path / "step.json").read_text())
    events = written["traceEvents"]
    rows = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert list(rows.values()) == ["overhead", "compute", "hbm", "sram"]
    drawn = [e for e in events if e["ph"] == "X"]
    assert {rows[e["tid"]] for e in drawn} == set(rows.values())
    assert all(e["cat"] == rows[e["tid"]] and e["dur"] > 0 for e in drawn)
    last = max(e["ts"] + e["dur"] for e in drawn)
    assert last == pytest.approx(1e6 * timeline.seconds)
    # The second kernel's bytes come while the first one computes: read ahead, drawn ahead.
    second = next(e for e in drawn if e["cat"] == "hbm" and e["dur"] > 2e6)
    computing = [e for e in drawn if e["cat"] == "compute"]
    assert second["ts"] < computing[1]["ts"]
