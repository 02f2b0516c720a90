"""Matrix products: batch and summed dimensions are walked together."""

from typing import Any

from emu.axes import Dims, Ids, together
from emu.axis_rules.elementwise import axes_of
from emu.axis_table import Followed, axis_rule
from emu.interpreter import Site
from emu.values import Value
from emu.work_rules.dots import dimensions


@axis_rule("dot_general")
def dot_general(site: Site, left: Value, right: Value, *_: Value) -> Followed:
    """[batch, m, k] by [batch, k, n]."""
    return _product(site, left, right, site.params["dimension_numbers"])


@axis_rule("scaled_dot", "scaled_matmul", "scaled_matmul_wrapper")
def scaled_dot(site: Site, left: Value, right: Value, *_: Value) -> Followed:
    """As `dot_general`; the scales' axes are not followed."""
    numbers = site.params.get("dimension_numbers")
    return _product(site, left, right, numbers or (((2,), (2,)), ((0,), (0,))))


def _product(site: Site, left: Value, right: Value, numbers: Any) -> Followed:
    (left_k, right_k), (left_batch, right_batch) = dimensions(numbers)
    a, b = axes_of(site, left), axes_of(site, right)
    for i, j in (*zip(left_k, right_k, strict=True), *zip(left_batch, right_batch, strict=True)):
        site.tape.factors.unify(a[i], b[j])
    out = (
        *(a[d] for d in left_batch),
        *_others(a, (*left_k, *left_batch)),
        *_others(b, (*right_k, *right_batch)),
    )
    summed = together(a[d] for d in left_k)
    return Followed(outs=[out], axes=together((*out, summed)), summed=summed)


@axis_rule("ragged_dot_general")
def ragged_dot_general(site: Site, left: Value, right: Value, sizes: Value, *_: Value) -> Followed:
    """Rows in consecutive groups, each group times its own matrix of a stack."""
    numbers = site.params["ragged_dot_dimension_numbers"]
    (left_k, right_k), (left_batch, right_batch) = dimensions(numbers.dot_dimension_numbers)
    ragged = int(numbers.lhs_ragged_dimensions[0])
    group = [int(d) for d in numbers.rhs_group_dimensions]
    a, b, factors = axes_of(site, left), axes_of(site, right), site.tape.factors
    for i, j in (*zip(left_k, right_k, strict=True), *zip(left_batch, right_batch, strict=True)):
        factors.unify(a[i], b[j])
    count = axes_of(site, sizes)[-1]
    summed = together(a[d] for d in left_k)
    if ragged in left_k:  # a product for each group
        inner = (*(a[d] for d in left_batch), *_others(a, (*left_k, *left_batch)))
        out: Dims = (count, *inner, *_others(b, (*right_k, *right_batch)))
        return _given(site, out, summed, ())
    for d in group:
        factors.unify(count, b[d])
    indexed: Ids = together(b[d] for d in group)
    free = _others(b, (*right_k, *right_batch, *group))
    out = (*(a[d] for d in left_batch), *_others(a, (*left_k, *left_batch)), *free)
    return _given(site, out, summed, indexed)


def _given(site: Site, out: Dims, summed: Ids, indexed: Ids) -> Followed:
    assert len(out) == len(site.outs[0].dims), site.name
    return Followed(outs=[out], axes=together((*out, summed)), summed=summed, indexed=indexed)


def _others(axes: Dims, used: tuple[int, ...]) -> Dims:
    return tuple(ids for d, ids in enumerate(axes) if d not in used)
