import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emu import small_steps, streams
from emu.streams import Timing
from emu.tracing import trace


def test_kernels_are_counted_as_they_are_traced():
    weights = jnp.ones((small_steps.ROWS, small_steps.WIDTH)), jnp.ones(small_steps.WIDTH)

    def count(times):
        def step(weights, x):
            return small_steps._small(times, weights, x)

        return trace(jax.jit(step), weights, jnp.ones(small_steps.WIDTH)).kernels

    # Each time: norm (with the sum before it), product, gate, product; at the end one sum.
    assert [count(1), count(2), count(5)] == [5, 9, 21]


def test_the_chain_stays_finite():
    weights = (
        jnp.full((small_steps.ROWS, small_steps.WIDTH), 1 / small_steps.WIDTH),
        jnp.ones(small_steps.WIDTH),
    )
    x = jnp.ones(small_steps.WIDTH)
    for _ in range(50):
        x = small_steps._small(4, weights, x)
    assert np.all(np.isfinite(x))
    assert float(jnp.abs(x).max()) > 1e-3  # and never becomes denormal


def test_what_is_left_of_two_lengths_is_the_kernels_and_the_steps(monkeypatch):
    """5 µs a step, 3 µs a small kernel, 2 µs a product."""

    turns = []

    def program(times, steps):
        small = 2 * times + 1

        def a_round():
            turns.append(times)
            return 5e-6 + 3e-6 * small + 2e-6 * 2 * times

        return a_round, small

    monkeypatch.setattr(small_steps, "_program", program)
    monkeypatch.setattr(
        streams.Stream,
        "seconds_per_read",
        lambda self, tries: Timing(read_bytes=65_536, seconds=2e-6, calm=True),
    )
    monkeypatch.setattr(streams.load, "is_disturbed", lambda before, after: False)
    found = small_steps.small_steps()
    assert turns == [small_steps.SHORT, small_steps.LONG] * streams.ROUNDS
    assert found.per_step_s == pytest.approx(5e-6)
    assert found.per_kernel_s == pytest.approx(3e-6)
    assert found.calm


def test_a_step_and_a_kernel_take_microseconds_here():
    found = small_steps.small_steps(tries=1)
    assert 0 <= found.per_step_s < 1e-2
    assert 0 <= found.per_kernel_s < 1e-3
