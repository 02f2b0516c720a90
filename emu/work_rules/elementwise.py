"""Elementwise arithmetic: one FLOP per element of the result for floating-point arithmetic, none
for comparisons, bit operations, conversions and integers (which are not floating-point operations).

On stored tensors alone it stays a view, done on the way into whatever reads it, as dequantisation
is. With activations in it, it reads all its operands and writes its result.
"""

import dataclasses

from emu.costs import own_rule
from emu.interpreter import Site
from emu.known import fold
from emu.tape import Touch, touches
from emu.values import Routing, Value, constant
from emu.views import merged

ARITHMETIC = (
    "abs", "acos", "acosh", "add", "add_any", "asin", "asinh", "atan", "atan2", "atanh",
    "bessel_i0e", "bessel_i1e", "cbrt", "ceil", "clamp", "cos", "cosh", "digamma", "div", "erf",
    "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "igamma", "igamma_grad_a", "igammac",
    "integer_pow", "lgamma", "log", "log1p", "log2", "logistic", "max", "min", "mul", "neg",
    "nextafter", "one_minus_square", "polygamma", "polynomial", "pow", "random_gamma_grad",
    "reciprocal", "regularized_incomplete_beta", "rem", "round", "rsqrt", "sign", "sin", "sinh",
    "sqrt", "square", "sub", "tan", "tanh", "zeta",
)  # fmt: skip
NO_FLOPS = (
    "and", "clz", "complex", "conj", "convert_element_type", "eq", "eq_to", "ge", "gt", "imag",
    "is_finite", "le", "le_to", "lt", "lt_to", "mulhi", "ne", "not", "or", "population_count",
    "real", "reduce_precision", "shift_left", "shift_right_arithmetic", "shift_right_logical",
    "xor", "from_edtype", "to_edtype",
)  # fmt: skip


@own_rule(*ARITHMETIC)
def arithmetic(site: Site, *values: Value) -> Value:
    """One FLOP per element, where it is floating-point."""
    out = site.outs[0]
    each = 2 if out.dtype.startswith("complex") else 1
    return elementwise(site, values, each if out.floating else 0)


@own_rule(*NO_FLOPS)
def no_flops(site: Site, *values: Value) -> Value:
    """No FLOPs; the bytes are those of any elementwise op."""
    return elementwise(site, values, 0)


def elementwise(site: Site, values: tuple[Value, ...], flops_each: int) -> Value:
    """The value of an elementwise op; `flops_each` is per element of the result."""
    out = site.outs[0]
    known = fold(site.name, site.params, [v.known for v in values], out.dtype)
    if known is not None:
        return constant(out, known=known)
    flops = {out.dtype: flops_each * out.size}
    if all(v.view for v in values):
        if flops_each and out.size > 1:
            site.emit("elementwise", outs=(), flops=flops, fuse="rider")
        result = merged(out, values, computed=True)
    else:
        values = tuple(site.settle(v) for v in values)
        reads = list({(t.tensor, t.regions): t for t in _all_touches(values)}.values())
        result = site.emit("elementwise", flops=flops, reads=reads)[0]
    return with_routing(result, values)


def with_routing(result: Value, values: tuple[Value, ...]) -> Value:
    """Integers made of a router's choice are still the router's choice."""
    if result.shape.floating:
        return result
    return replace_routing(result, next((v.routing for v in values if v.routing), None))


def replace_routing(value: Value, routing: Routing | None) -> Value:
    """The value marked as a router's choice."""
    if routing is None:
        return value
    return dataclasses.replace(value, routing=routing)


def _all_touches(values: tuple[Value, ...]) -> list[Touch]:
    return [t for v in values for t in touches(v)]
