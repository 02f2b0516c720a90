"""Loops multiply: scan(f, n) is n times f, and the unrolled program."""

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.errors import EmuError
from emu.tracing import trace

Shape = jax.ShapeDtypeStruct
F32 = jnp.float32
WIDTH, BATCH = 8, 2

# Each takes its weights and activations [batch, width] to activations of the same shape.
LAYERS = {
    "product": ({"w": ((WIDTH, WIDTH), "float32")}, lambda w, x: x @ w["w"]),
    "narrow": ({"w": ((WIDTH, 3), "bfloat16")}, lambda w, x: x @ w["w"] @ w["w"].T),
    "int8": (
        {"w": ((WIDTH, WIDTH), "int8"), "s": ((WIDTH,), "float32")},
        lambda w, x: x @ (w["w"].astype(F32) * w["s"]),
    ),
    "bias": ({"b": ((WIDTH,), "float32")}, lambda w, x: jnp.tanh(x + w["b"])),
    "norm": (
        {"s": ((WIDTH,), "float32")},
        lambda w, x: x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True)) * w["s"],
    ),
    "experts": (
        {"r": ((WIDTH, 4), "float32"), "w": ((4, WIDTH, WIDTH), "float32")},
        lambda w, x: jnp.einsum("bd,bkde->be", x, w["w"][jax.lax.top_k(x @ w["r"], 2)[1]]),
    ),
    "table": (
        {"t": ((5, WIDTH), "float32")},
        lambda w, x: x + w["t"][jnp.argmax(x[:, :5], axis=-1)],
    ),
    "sorted": ({}, lambda w, x: jnp.sort(x, axis=-1)),
    "called": ({"w": ((WIDTH, WIDTH), "float32")}, jax.jit(lambda w, x: jax.nn.relu(x @ w["w"]))),
    "remat": ({"w": ((WIDTH, WIDTH), "float32")}, jax.checkpoint(lambda w, x: jnp.sin(x @ w["w"]))),
    "inner": (
        {"w": ((3, WIDTH, WIDTH), "float32")},
        lambda w, x: jax.lax.scan(lambda x, w: (x @ w, None), x, w["w"])[0],
    ),
}
CHAINS = st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=4)


def chain(names):
    """The layers one after the other, and their weights' shapes."""

    def run(weights, x):
        for name, w in zip(names, weights, strict=True):
            x = LAYERS[name][1](w, x)
        return x

    return run, [LAYERS[name][0] for name in names]


def structs(tree, *stack):
    return [
        {k: Shape((*stack, *dims), dtype) for k, (dims, dtype) in layer.items()} for layer in tree
    ]


def counts(work):
    return (
        work.flops_by_dtype,
        work.dot_flops,
        work.weight_bytes,
        work.cache_bytes,
        work.activation_bytes,
        work.kernels,
    )


@pytest.mark.newest
@settings(max_examples=25)
@given(names=CHAINS, n=st.integers(1, 5))
def test_scan_is_n_times_its_body_and_the_unrolled_program(names, n):
    run, tree = chain(names)
    x = Shape((BATCH, WIDTH), F32)

    def scanned(weights, x):
        return jax.lax.scan(lambda x, w: (run(w, x), None), x, weights, length=n)[0]

    def unrolled(weights, x):
        for i in range(n):
            x = run(jax.tree.map(lambda w, i=i: w[i], weights), x)
        return x

    once = trace(run, structs(tree), x)
    scan = trace(scanned, structs(tree, n), x)
    flat = trace(unrolled, structs(tree, n), x)
    assert counts(scan) == counts(n * once)
    assert scan.flops_by_dtype == flat.flops_by_dtype
    assert scan.weight_bytes == flat.weight_bytes
    assert scan.bytes_by_leaf == flat.bytes_by_leaf
    # The unrolled program may fuse from one iteration into the next.
    assert flat.kernels <= scan.kernels
    assert flat.activation_bytes <= scan.activation_bytes


@settings(max_examples=15)
@given(names=CHAINS, batch=st.integers(1, 6))
def test_vmap_counts_like_the_batched_function(names, batch):
    run, tree = chain(names)
    x = Shape((batch, WIDTH), F32)
    batched = trace(run, structs(tree), x)
    mapped = trace(lambda w, x: jax.vmap(lambda row: run(w, row[None])[0])(x), structs(tree), x)
    assert mapped.flops_by_dtype == batched.flops_by_dtype
    assert mapped.bytes_by_leaf == batched.bytes_by_leaf


@settings(max_examples=10)
@given(names=CHAINS)
def test_one_after_the_other_is_the_sum(names):
    run, tree = chain(names)
    weights, x = structs(tree), Shape((BATCH, WIDTH), F32)
    once = trace(run, weights, x)
    twice = trace(lambda w, x: (run(w, x), run(w, x * 2)), weights, x)
    assert twice.weight_bytes == (once + once).weight_bytes
    assert twice.dot_flops == (once + once).dot_flops


@pytest.mark.parametrize("form", ["xs", "carried counter", "fori_loop", "reversed", "while"])
def test_a_stack_of_layers_is_read_once_however_it_is_walked(form):
    def body(w, x):
        return jnp.tanh(x @ w)

    def model(w, x):
        if form == "xs":
            return jax.lax.scan(lambda x, w: (body(w, x), None), x, w)[0]
        if form == "reversed":
            return jax.lax.scan(lambda x, w: (body(w, x), None), x, w, reverse=True)[0]
        if form == "carried counter":
            return jax.lax.scan(
                lambda c, _: ((body(w[c[1]], c[0]), c[1] + 1), None), (x, 0), length=5
            )[0][0]
        if form == "fori_loop":
            return jax.lax.fori_loop(0, 5, lambda i, x: body(w[i], x), x)
        return jax.lax.while_loop(
            lambda c: c[0] < 5, lambda c: (c[0] + 1, body(w[c[0]], c[1])), (0, x)
        )[1]

    work = trace(model, Shape((5, 8, 8), F32), Shape((2, 8), F32))
    assert work.weight_bytes == 4 * 5 * 8 * 8
    assert work.dot_flops == 5 * 2 * 2 * 8 * 8
    (op,) = [op for op in work.ops if op.kind == "dot"]
    assert op.count == 5
    (read,) = [a for a in op.reads if a.kind == "weights"]
    assert (read.bytes, read.rows) == (4 * 8 * 8, (0, 5))


def test_weights_used_in_every_iteration_are_read_every_time():
    def model(w, x):
        return jax.lax.scan(lambda x, _: (x @ w, None), x, length=7)[0]

    assert trace(model, Shape((8, 8), F32), Shape((2, 8), F32)).weight_bytes == 7 * 256


def test_nested_scans_over_a_reshaped_stack_read_it_once():
    def model(w, x):
        def outer(x, group):
            return jax.lax.scan(lambda x, w: (x @ w, None), x, group)[0], None

        return jax.lax.scan(outer, x, w.reshape(2, 3, 8, 8))[0]

    work = trace(model, Shape((6, 8, 8), F32), Shape((2, 8), F32))
    assert work.weight_bytes == 4 * 6 * 64
    (op,) = [op for op in work.ops if op.kind == "dot"]
    assert op.count == 6


def test_a_scan_of_no_steps_costs_nothing():
    def model(w, x):
        return jax.lax.scan(lambda x, w: (x @ w, x), x, w)

    work = trace(model, Shape((0, 8, 8), F32), Shape((2, 8), F32))
    assert (work.flops, work.weight_bytes, work.kernels) == (0, 0, 0)


def test_stacked_outputs_are_alive_from_the_loops_start():
    def model(x):
        return jax.lax.scan(lambda x, _: (jnp.sin(x), x * 2), x, length=10)[1]

    work = trace(model, Shape((100,), F32), weights=None)
    # The stack of 10, x, and the next x while the loop runs.
    assert work.peak_activation_bytes == 4 * 100 * (10 + 1 + 1)


def test_what_a_loop_reads_from_outside_is_alive_until_it_ends():
    def model(y, c):
        def body(c, _):
            once = jnp.sort(y * c)
            return jnp.sort(-once)[0], None

        return jax.lax.scan(body, c, length=10)[0]

    work = trace(model, Shape((100,), F32), Shape((), F32), weights=None)
    # y is read first, but the next iteration needs it: it is there beside each kernel's input and
    # output of 100, and so is c.
    assert work.peak_activation_bytes == 4 * (100 + 2 * 100 + 1)


def test_a_while_loops_trips_are_derived_through_arithmetic_and_calls():
    def model(w, x):
        def go_on(c):
            return jnp.logical_and(c[0] * 2 < 20, c[1] > 0)

        def body(c):
            i, budget, x = c
            return i + 1, jnp.maximum(budget - 3, 0), x @ w

        return jax.lax.while_loop(go_on, body, (jnp.int32(0), jnp.int32(20), x))[2]

    # i reaches 10 after 10 steps; the budget, 0 after 7.
    assert trace(model, Shape((8, 8), F32), Shape((2, 8), F32)).dot_flops == 7 * 2 * 2 * 64


def until_settled(w, x):
    with jax.named_scope("settle"):
        return jax.lax.while_loop(lambda x: x.sum() > 1, lambda x: x @ w, x)


def test_a_while_loop_that_depends_on_data_asks_for_its_trips():
    arguments = Shape((8, 8), F32), Shape((2, 8), F32)
    with pytest.raises(EmuError, match=r"while loop at settle \(test_trace_loops.*trip_counts"):
        trace(until_settled, *arguments)
    work = trace(until_settled, *arguments, hints={"trip_counts": 4})
    assert work.dot_flops == 4 * 2 * 2 * 64
    assert {op.count for op in work.ops if op.kind == "reduction"} == {5}  # the condition's sums
    work = trace(until_settled, *arguments, hints={"trip_counts": {"other*": 9, "settle": 3}})
    assert work.dot_flops == 3 * 2 * 2 * 64
    with pytest.raises(EmuError, match="trip_counts"):
        trace(until_settled, *arguments, hints={"trip_counts": {"other*": 9}})


def test_a_cond_is_charged_for_the_branch_that_runs():
    def model(w, flag, x):
        return jax.lax.cond(flag, lambda x: x @ w, lambda x: x + 1, x)

    arguments = Shape((8, 8), F32), Shape((), bool), Shape((2, 8), F32)
    work = trace(model, *arguments)
    assert work.dot_flops == 2 * 2 * 64
    assert "costliest" in work.notes[0]
    work = trace(model, *arguments, hints={"branches": 0})
    assert (work.dot_flops, work.weight_bytes, work.notes) == (0, 0, ())
    with pytest.raises(EmuError, match="branch 7"):
        trace(model, *arguments, hints={"branches": 7})


def test_a_carry_that_stops_being_a_weight_is_activations():
    def model(w, x):
        def body(carry, _):
            w, x = carry
            return (w * 0.5, x @ w), None

        return jax.lax.scan(body, (w, x), length=3)[0][1]

    work = trace(model, Shape((8, 8), F32), Shape((2, 8), F32))
    assert work.weight_bytes == 256  # copied into the carry once
