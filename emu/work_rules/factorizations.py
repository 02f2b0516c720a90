"""Dense factorizations and solves, by the leading terms of their textbook's operation counts.

Golub and Van Loan, Matrix Computations, 4th ed.: n³/3 for Cholesky, 2n³/3 for LU, 2mn² - 2n³/3 for
QR, n² per right-hand side of a triangular solve, 9n³ for a symmetric eigenproblem, 25n³ for a
general one, and 4m²n + 8mn² + 9n³ for a singular value decomposition with both sides. Each is a
kernel of its own.
"""

import math

from emu.costs import own_rule
from emu.interpreter import Site, interpret
from emu.jaxprs import Shape
from emu.values import Value


@own_rule("cholesky", "cholesky_update", "lu", "geqrf", "geqp3", "qr", "householder_product",
          "ormqr", "eigh", "eig", "svd", "schur", "hessenberg", "tridiagonal")  # fmt: skip
def factorization(site: Site, value: Value, *others: Value) -> list[Value]:
    """One matrix, or a stack of them."""
    batch, m, n = _sizes(value.shape)
    low = min(m, n)
    each = {
        "cholesky": n**3 / 3,
        "cholesky_update": 2 * n**2,
        "lu": m * n * low - low**3 / 3 if m != n else 2 * n**3 / 3,
        "eigh": 9 * n**3,
        "eig": 25 * n**3,
        "schur": 25 * n**3,
        "hessenberg": 10 * n**3 / 3,
        "tridiagonal": 4 * n**3 / 3,
        "svd": 4 * m**2 * n + 8 * m * n**2 + 9 * n**3,
    }.get(site.name, 2 * max(m, n) * low**2 - 2 * low**3 / 3)
    flops = {value.shape.dtype: batch * math.ceil(each)}
    values = [site.in_memory(v) for v in (value, *others)]
    return site.emit("factorization", values, flops=flops, fuse="alone")


@own_rule("triangular_solve", "tridiagonal_solve")
def solve(site: Site, *values: Value) -> list[Value]:
    """Right-hand sides in the last operand."""
    n = values[0].shape.dims[-1]
    work = values[-1].shape.size * (n if site.name == "triangular_solve" else 8)
    flops = {values[-1].shape.dtype: work}
    return site.emit(
        "factorization", [site.in_memory(v) for v in values], flops=flops, fuse="alone"
    )


@own_rule("lu_pivots_to_permutation")
def permutation(site: Site, value: Value) -> list[Value]:
    """Integers only."""
    return site.emit("factorization", [site.in_memory(value)], fuse="alone")


@own_rule("custom_linear_solve")
def custom_linear_solve(site: Site, *values: Value) -> list[Value]:
    """Its forward solve, as if written in place."""
    lengths = site.params["const_lengths"]
    counts = [int(getattr(lengths, name)) for name in ("matvec", "vecmat", "solve")]
    first = sum(counts[:2])
    skipped = first + counts[2] + int(getattr(lengths, "transpose_solve", 0))
    solve_consts = values[first : first + counts[2]]
    return interpret(
        site.params["jaxprs"].solve, [*solve_consts, *values[skipped:]], site.tape, site.needed
    )


def _sizes(shape: Shape) -> tuple[int, int, int]:
    """Matrices, rows, columns."""
    m, n = shape.dims[-2:] if len(shape.dims) > 1 else (1, *shape.dims)
    return shape.size // max(1, m * n), m, n
