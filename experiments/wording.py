"""Numbers as people read them: three figures, and the unit that suits."""


def ms(seconds: float) -> str:
    """`12.3 ms`, without the unit."""
    return figures(seconds * 1e3)


def us(seconds: float) -> str:
    """`12.3 µs`, without the unit."""
    return figures(seconds * 1e6)


def mb(size_bytes: float) -> str:
    """`12.3 MB` (10^6 bytes), without the unit."""
    return figures(size_bytes / 1e6)


def gb_per_s(bytes_per_s: float) -> str:
    """`12.3 GB/s` (10^9 bytes), without the unit."""
    return figures(bytes_per_s / 1e9)


def figures(number: float) -> str:
    """Three significant figures, never in powers of ten: `0.0123`, `1.23`, `12.3`, `1,230`."""
    rounded = float(f"{number:.3g}")
    if abs(rounded) >= 100:
        return f"{rounded:,.0f}"
    if abs(rounded) >= 10:
        return f"{rounded:.1f}"
    if abs(rounded) >= 1 or rounded == 0:
        return f"{rounded:.2f}"
    decimals = next(n for n in range(3, 20) if abs(rounded) * 10**n >= 100)
    return f"{rounded:.{decimals}f}"


def listed(parts: list[str]) -> str:
    """`a`, `a and b`, or `a, b and c`."""
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"
