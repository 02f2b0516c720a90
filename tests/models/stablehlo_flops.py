"""FLOPs of the products in a lowered program, counted from StableHLO alone.

Nothing of `emu` is used, and nothing of the jaxpr that it reads: what is counted is the module that
JAX hands to the compiler.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo

# What would hide products, or need a number that the module does not say.
_NOT_COUNTED = ("stablehlo.while", "stablehlo.case", "stablehlo.if", "stablehlo.custom_call")


def dot_flops(lowered: jax.stages.Lowered) -> int:
    """FLOPs of all `dot_general`s that a call of the program runs, two for a multiplication.

    Functions are counted as often as they are called. Loops, branches, ragged products and calls
    out of the program are refused (AssertionError): unroll and inline what is to be counted.
    """
    module = lowered.compiler_ir("stablehlo")
    functions = {op.name.value: op for op in module.body.operations}
    return _of_function("main", functions, {})


def _of_function(name: str, functions: Mapping[str, Any], known: dict[str, int]) -> int:
    if name not in known:
        known[name] = _of_blocks(functions[name].regions, functions, known)
    return known[name]


def _of_blocks(regions: Any, functions: Mapping[str, Any], known: dict[str, int]) -> int:
    total = 0
    for region in regions:
        for block in region:
            for op in block:
                kind = op.operation.name
                assert kind not in _NOT_COUNTED, f"{kind} cannot be counted"
                assert "ragged" not in kind, f"{kind} cannot be counted"
                if kind == "stablehlo.dot_general":
                    total += _of_product(op)
                elif kind == "func.call":
                    callee = ir.FlatSymbolRefAttr(op.attributes["callee"]).value
                    total += _of_function(callee, functions, known)
                else:
                    total += _of_blocks(op.operation.regions, functions, known)
    return total


def _of_product(op: Any) -> int:
    numbers = stablehlo.DotDimensionNumbers(op.attributes["dot_dimension_numbers"])
    left = ir.RankedTensorType(op.operands[0].type).shape
    out = ir.RankedTensorType(op.results[0].type).shape
    summed = math.prod(left[axis] for axis in numbers.lhs_contracting_dimensions)
    return 2 * math.prod(out) * summed
