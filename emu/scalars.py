"""What `xp` is for plain numbers one by one, for which NumPy's functions take ten times as long."""

from typing import Any

import numpy as np


class Scalars:
    """NumPy's functions of these names, of floats."""

    minimum, maximum = min, max

    @staticmethod
    def where(condition: bool, a: float, b: float) -> float:
        """One of two numbers."""
        return a if condition else b


def total(values: Any, times: Any, xp: Any) -> Any:
    """Σ values · times over the last axis: where numbers are plain a float, or a list of them."""
    return values.dot(times).tolist() if xp is np else xp.dot(values, times)
