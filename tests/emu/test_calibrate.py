import numpy as np
import pytest

from emu.calibrate import Parameter, fit
from emu.errors import EmuError

LOADS = [(1.0, 0.0), (2.0, 1.0), (5.0, 3.0), (1.0, 7.0)]
TRUE = (3.0, 0.5)


def rows(noise=(0, 0, 0, 0)):
    seconds = [lambda v, load=load: load[0] * v[0] + load[1] * v[1] for load in LOADS]
    measured = [s(TRUE) * np.exp(n) for s, n in zip(seconds, noise, strict=True)]
    return {
        "seconds": seconds,
        "measured_s": measured,
        "weights": [20.0] * 4,
        "touches": [[True, b > 0] for _, b in LOADS],
    }


def parameters(spread=2.0, most=None):
    return [
        Parameter(name="a", prior=1.0, spread=spread),
        Parameter(name="b", prior=0.1, spread=spread, most=most),
    ]


def test_what_made_the_data_is_found():
    found = fit(parameters(), **rows())
    assert found.values == pytest.approx(TRUE, rel=0.01)
    assert found.errors == pytest.approx([0.0] * 4, abs=0.01)
    for low, value, high in zip(found.low, found.values, found.high, strict=True):
        assert low < value < high
    noisy = fit(parameters(), **rows(noise=(0.05, -0.05, 0.05, -0.05)))
    assert noisy.values == pytest.approx(TRUE, rel=0.2)


def test_a_prior_holds_where_data_is_weak():
    held = fit(parameters(spread=0.01), **(rows() | {"weights": [0.1] * 4}))
    assert held.values == pytest.approx([1.0, 0.1], rel=0.02)


def test_a_bound_is_kept():
    found = fit(parameters(most=0.2), **rows())
    assert found.values[1] <= 0.2 * (1 + 1e-9)
    assert found.high[1] <= 0.2 * (1 + 1e-9)


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(EmuError, match="positive prior"):
        Parameter(name="a", prior=0.0, spread=1.0)
    with pytest.raises(EmuError, match=r"its prior is above 0\.5"):
        Parameter(name="a", prior=1.0, spread=1.0, most=0.5)
    with pytest.raises(EmuError, match="every row needs"):
        fit(parameters(), **(rows() | {"weights": [1.0]}))
