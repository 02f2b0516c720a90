"""What this project's own native products (`kernels`) cost, given the public way."""

from emu.costs import Call, Cost, cost_rule
from kernels.products import ATTEND, MATVEC, READ


@cost_rule("ffi_call", name=MATVEC)
def matvec(call: Call) -> Cost:
    """Every matrix [out, in] times x, in float32 whatever it is stored in; scales are vectors."""
    matrices = [shape for shape in call.inputs[1:] if len(shape.dims) == 2]
    return Cost(flops={"float32": sum(2 * shape.size for shape in matrices)}, kind="dot")


@cost_rule("ffi_call", name=ATTEND)
def attend(call: Call) -> Cost:
    """A token's keys and values are written into the cache; only the tokens in it are read."""
    q, new = call.inputs[0], call.inputs[1]
    keys, values = call.inputs[3], call.inputs[4]
    length = keys.dims[2]
    tokens = length if call.context is None else min(length, call.context)
    return Cost(
        flops={"float32": 2 * 2 * q.size * tokens},  # scores, and the mix of the values
        reads={3: keys.size, 4: values.size},
        writes={1: new.size, 2: new.size},
        in_place={1: 3, 2: 4},
        token_axes={3: 2, 4: 2},
        kind="dot",
    )


@cost_rule("ffi_call", name=READ)
def read(_: Call) -> Cost:
    """Every operand is read, for the sake of reading it."""
    return Cost(kind="reduction")
