"""Counts that are made up, so that what is traced can be counted."""

from collections.abc import Callable

import numpy as np

from emu.design.cells import Cell, cells
from emu.design.counts import Counts, Layout

BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
CONTEXTS = tuple(range(100, 2100, 100))
Asked = list[tuple[int, int]]


def made(
    count: Callable[[int, int], float], kernels: Callable[[int], int] = lambda _: 1
) -> tuple[tuple[Cell, ...], Asked]:
    """The cells of one count, and what was traced for them."""
    asked: Asked = []

    def at(batch: int, context: int) -> Counts:
        asked.append((batch, context))
        many = kernels(batch)
        layout = Layout(
            columns=("through/0",),
            runs=((0, many, 1),),
            calls=1,
            launched=(True,) * many,
            touched=((True,),) * many,
            crossing=(False,) * many,
            flop_kinds=(),
            exchanges=(),
            off_chip=(),
            faster=((),),
            is_mesh=False,
        )
        rows = np.full((many, 1), count(batch, context) / many)
        return Counts(layout=layout, rows=rows, totals=np.array([float(batch)]))

    return cells(at, BATCHES, CONTEXTS), asked


def check(found: tuple[Cell, ...], count: Callable[[int, int], float]) -> None:
    """Every point is in one cell, which has its count."""
    seen = []
    for cell in found:
        batch, context = (
            axis.ravel() for axis in np.meshgrid(cell.batches, cell.contexts, indexing="ij")
        )
        rows, totals = cell.at(batch, context)
        direct = [count(int(b), int(c)) for b, c in zip(batch, context, strict=True)]
        np.testing.assert_allclose(rows.sum((0, 1)), direct, rtol=1e-9)
        np.testing.assert_allclose(totals[0], batch, rtol=1e-9)
        seen += list(zip(batch.tolist(), context.tolist(), strict=True))
    assert sorted(seen) == [(b, c) for b in BATCHES for c in CONTEXTS]


def experts(batch: int, context: int) -> float:
    """Those of 32 that a batch touches, four a token, and a cache."""
    return 1e9 * 32 * (1 - (28 / 32) ** batch) + 1e3 * batch * context


def chunk(tokens: int, prefix: int) -> float:
    """Of a prompt: attention among its own tokens, and to those before."""
    return 1e6 * tokens + 1e3 * (tokens * prefix + tokens**2 / 2)


def test_a_curve_over_batches_is_traced_once_for_each_batch() -> None:
    for count in (experts, chunk):
        found, asked = made(count)
        check(found, count)
        assert len(found) == 1
        assert len(asked) <= len(BATCHES) + 8


def test_a_curve_behind_a_bend_is_traced_once_too() -> None:
    def windowed(batch: int, context: int) -> float:
        return experts(batch, context) + 1e4 * batch * min(context, 700)

    found, asked = made(windowed)
    check(found, windowed)
    assert [cell.contexts[0] for cell in found] == [100, 800]
    assert len(asked) <= len(BATCHES) + 20  # twice the curve would be 40 in all


def test_it_is_cut_where_kernels_change() -> None:
    found, asked = made(experts, kernels=lambda batch: 3 if batch < 24 else 2)
    check(found, experts)
    assert [cell.batches[0] for cell in found] == [1, 24]
    assert len(asked) <= len(BATCHES) + 16


def test_a_bend_over_batches_is_no_curve() -> None:
    def padded(batch: int, context: int) -> float:
        return 1e6 * max(batch, 12) * context

    found, asked = made(padded)
    check(found, padded)
    assert not any(cell.curve for cell in found if len(cell.batches) > 3)
    assert len(asked) < 40
