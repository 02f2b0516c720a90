import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from toy_chip import chip, stack, work

import emu
from emu.alike import _compiled, gradient_of
from emu.calibrate import Measurement, Parameter, fit
from emu.errors import EmuError

LOADS = [(1.0, 0.0), (2.0, 1.0), (5.0, 3.0), (1.0, 7.0)]
TRUE = (3.0, 0.5)


def measurements(noise=(0, 0, 0, 0), log_error=0.05):
    seconds = [lambda v, load=load: load[0] * v[0] + load[1] * v[1] for load in LOADS]
    return [
        Measurement(seconds=one, measured_s=float(one(TRUE) * np.exp(off)), log_error=log_error)
        for one, off in zip(seconds, noise, strict=True)
    ]


def parameters(spread=2.0, most=None):
    return [
        Parameter(name="a", prior=1.0, spread=spread),
        Parameter(name="b", prior=0.1, spread=spread, most=most),
    ]


def test_what_made_the_data_is_found():
    found = fit(parameters(), measurements())
    assert found.values == pytest.approx(TRUE, rel=0.01)
    assert found.errors == pytest.approx([0.0] * 4, abs=0.01)
    for low, value, high in zip(found.low, found.values, found.high, strict=True):
        assert low < value < high
    noisy = fit(parameters(), measurements(noise=(0.05, -0.05, 0.05, -0.05)))
    assert noisy.values == pytest.approx(TRUE, rel=0.2)


def test_the_optimum_is_that_of_another_method():
    noise = (0.1, -0.3, 0.05, 0.02)
    found = fit(parameters(spread=1.0), measurements(noise))

    def loss(logs):
        values = np.exp(logs)
        off = [np.log(m.seconds(values) / m.measured_s) / 0.05 for m in measurements(noise)]
        soft = 2 * 1.5**2 * sum(np.sqrt(1 + (r / 1.5) ** 2) - 1 for r in off)
        return soft + logs[0] ** 2 + (logs[1] - np.log(0.1)) ** 2

    exactly = {"xatol": 1e-9, "fatol": 1e-12}
    by_scipy = minimize(loss, np.zeros(2), method="Nelder-Mead", options=exactly)
    assert found.loss == pytest.approx(by_scipy.fun, rel=1e-6)
    assert np.log(found.values) == pytest.approx(by_scipy.x, abs=1e-3)


def test_a_prior_holds_where_data_is_weak():
    held = fit(parameters(spread=0.01), measurements(log_error=10.0))
    assert held.values == pytest.approx([1.0, 0.1], rel=0.02)


def test_a_bound_is_kept():
    found = fit(parameters(most=0.2), measurements())
    assert 0.15 < found.values[1] <= 0.2
    assert found.high[1] <= 0.2


def test_a_time_may_be_the_sum_of_several_steps():
    [*_, last] = measurements()
    parts = [(7.0, lambda v: v[1]), (0.5, lambda v: 2 * v[0])]
    whole = Measurement(seconds=parts, measured_s=last.measured_s)
    at = np.log([2.0, 0.3])
    assert whole.predicted(at)[0] == pytest.approx(last.predicted(at)[0])
    assert whole.predicted(at)[1] == pytest.approx(last.predicted(at)[1])


def test_a_stack_is_fitted_through_the_clock():
    of = [work((n, 0), (n // 2, 0)) for n in (1000, 4000, 9000)]
    systems = emu.System(chip(), stack=stack())
    placed = [emu.place(one, systems, "off-chip", activations="sram") for one in of]

    def seconds(one, placement):
        def at(values):
            number = emu.Sourced(value=0.0, source="a test", kind="assumed")
            share, launch = (dataclasses.replace(number, value=v) for v in values)
            software = dataclasses.replace(stack(), off_chip_share=share, per_kernel_s=launch)
            return emu.predict(one, emu.System(chip(), stack=software), placement).seconds

        return at

    clocks = [seconds(one, placement) for one, placement in zip(of, placed, strict=True)]
    true = np.array([0.7, 0.25])
    found = fit(
        [
            Parameter(name="share", prior=0.9, spread=1.0, most=1.0),
            Parameter(name="launch", prior=1.0, spread=1.0),
        ],
        [Measurement(seconds=c, measured_s=float(c(true)), log_error=0.001) for c in clocks],
    )
    assert found.values == pytest.approx(true, rel=1e-3)


def test_functions_that_differ_in_constants_alone_are_compiled_once():
    def made(scale, shift):
        return lambda v: jnp.sum(jnp.sin(v) * jnp.array([scale, 2.0])) + shift * v[0]

    before = len(_compiled)
    one, other = gradient_of(made(1.0, 0.5), 2), gradient_of(made(3.0, -1.5), 2)
    assert len(_compiled) <= before + 1
    at = np.array([0.3, 0.7])
    for gradient, scale, shift in ((one, 1.0, 0.5), (other, 3.0, -1.5)):
        value, slopes = gradient(at)
        assert value == pytest.approx(
            scale * np.sin(0.3) + 2 * np.sin(0.7) + shift * 0.3, rel=1e-12
        )
        assert slopes == pytest.approx([scale * np.cos(0.3) + shift, 2 * np.cos(0.7)], rel=1e-12)


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(EmuError, match="positive prior"):
        Parameter(name="a", prior=0.0, spread=1.0)
    with pytest.raises(EmuError, match=r"its prior is above 0\.5"):
        Parameter(name="a", prior=1.0, spread=1.0, most=0.5)
    with pytest.raises(EmuError, match="seconds above 0"):
        Measurement(seconds=sum, measured_s=0.0)
    with pytest.raises(EmuError, match="nothing to fit"):
        fit([], measurements())
    with pytest.raises(EmuError, match="one positive value"):
        fit(parameters(), measurements(), start=[1.0])
