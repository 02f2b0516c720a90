"""What `xp` is for plain numbers one by one, for which NumPy's functions take ten times as long."""


class Scalars:
    """NumPy's functions of these names, of floats."""

    minimum, maximum = min, max

    @staticmethod
    def where(condition: bool, a: float, b: float) -> float:
        """One of two numbers."""
        return a if condition else b
