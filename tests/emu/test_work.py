"""Works add, multiply, print, and go to and from JSON."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.errors import EmuError
from emu.tracing import trace
from emu.work import SCHEMA, Access, Leaf, Op, Work, leaves_of

Shape = jax.ShapeDtypeStruct
F32 = jnp.float32


def mlp(w, x):
    with jax.named_scope("mlp"):
        return jnp.tanh(x @ w["up"]) @ w["down"]


def work_of(batch=2):
    weights = {"up": Shape((8, 16), F32), "down": Shape((16, 8), "bfloat16")}
    return trace(mlp, weights, Shape((batch, 8), F32))


@settings(max_examples=20)
@given(a=st.integers(0, 10**15), b=st.integers(0, 10**15))
def test_sums_add_and_multiply_exactly_and_peaks_do_not(a, b):
    one, two = work_of(2), work_of(5)
    both = a * one + two * b
    for name in ("flops", "dot_flops", "weight_bytes", "activation_bytes", "kernels"):
        assert getattr(both, name) == a * getattr(one, name) + b * getattr(two, name)
    assert both.peak_activation_bytes == max(one.peak_activation_bytes, two.peak_activation_bytes)
    assert both.leaves == one.leaves
    assert all(isinstance(n, int) for n in (both.flops, both.weight_bytes, both.kernels))


def test_sum_over_a_list():
    assert sum([work_of(), work_of()]).flops == 2 * work_of().flops


def test_works_of_different_weights_do_not_add_under_one_name():
    other = trace(lambda w, x: x @ w["up"], {"up": Shape((9, 4), F32)}, Shape((2, 9), F32))
    with pytest.raises(EmuError, match="different tensors under 'up'"):
        work_of() + other
    with pytest.raises(TypeError):
        work_of() + 1
    with pytest.raises(TypeError):
        1.5 * work_of()
    with pytest.raises(EmuError, match="cannot be done -1 times"):
        -1 * work_of()


def test_a_work_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        work_of().leaves = ()


@pytest.mark.newest
def test_json_there_and_back():
    work = 10**18 * work_of()
    again = Work.from_json(work.to_json())
    assert again == work
    assert again.flops == work.flops > 2**63
    assert json.loads(work.to_json())["schema"] == SCHEMA


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "no schema version"),
        ('{"schema": 99}', "schema 99 is newer"),
        ('{"schema": 1}', "a field is missing or unknown"),
        ('{"schema": 1, "leaves": [{"shape": [1], "bad": 2}]}', "a field is missing or unknown"),
    ],
)
def test_json_that_is_not_a_work(text, message):
    with pytest.raises(EmuError, match=message):
        Work.from_json(text)


def test_a_work_prints_as_a_table():
    text = str(1000 * work_of())
    lines = text.splitlines()
    assert lines[0] == "weights      0.000768 GB read of 7.68e-07 GB held"
    assert "GFLOP        0.001056 (0.001056 float32)" in text
    assert "kernels      3000" in text
    rows = [line.split() for line in lines if line.startswith(("dot_general", "tanh"))]
    assert [row[:3] for row in rows] == [
        ["dot_general", "mlp", "1000"],
        ["tanh", "mlp", "1000"],
        ["dot_general", "mlp", "1000"],
    ]


def test_long_works_are_cut_in_print_with_the_rest_summed():
    op = Op(name="mul", kind="elementwise", flops={"float32": 10**9})
    ops = tuple(dataclasses.replace(op, kernel=i) for i in range(100))
    last = str(Work(leaves=(), ops=ops)).splitlines()[-1].split()
    assert last[:3] == ["…", "40", "more"]
    assert last[-4] == "40"  # GFLOP


def test_leaves_of_a_tree_in_jaxs_order():
    leaves = leaves_of({"b": {"value": Shape((3,), "int4")}, "a": [Shape((2, 2), F32)]})
    assert leaves == (
        Leaf(path="a/0", shape=(2, 2), dtype="float32"),
        Leaf(path="b", shape=(3,), dtype="int4"),
    )
    assert [leaf.bytes for leaf in leaves] == [16, 2]
    (cached,) = leaves_of([Shape((4,), "int8")], kind="cache")
    assert (cached.path, cached.kind) == ("cache/0", "cache")


def test_an_op_sums_its_bytes_by_tensor():
    op = Op(
        name="dot_general",
        kind="dot",
        reads=(
            Access(tensor="w", kind="weights", bytes=3),
            Access(tensor="w", kind="weights", bytes=4),
            Access(tensor="activations", kind="activations", bytes=5),
        ),
    )
    assert op.read_bytes == {"w": 7, "activations": 5}
    assert op.write_bytes == {}
