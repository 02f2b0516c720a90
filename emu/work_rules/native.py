"""What this project's own native products (`kernels`) cost, given the public way."""

from emu.costs import Call, Cost, cost_rule
from kernels.products import ATTEND, ATTEND_IN_STACK, MATVEC, MATVEC_OF_STACK, READ, RMS_NORM


@cost_rule("ffi_call", name=MATVEC)
def matvec(call: Call) -> Cost:
    """Every matrix [out, in] times x, in float32 whatever it is stored in; scales are vectors."""
    matrices = [shape for shape in call.inputs[1:] if len(shape.dims) == 2]
    return Cost(flops={"float32": sum(2 * shape.size for shape in matrices)}, kind="dot")


@cost_rule("ffi_call", name=MATVEC_OF_STACK)
def matvec_of_stack(call: Call) -> Cost:
    """As `matvec`, with one of the matrices in each stack: x, the layer, and the stacks."""
    stacks = {i: shape for i, shape in enumerate(call.inputs) if i > 1}
    matrices = [shape.size // shape.dims[0] for shape in stacks.values() if len(shape.dims) == 3]
    return Cost(
        flops={"float32": sum(2 * size for size in matrices)},
        reads={i: shape.size // shape.dims[0] for i, shape in stacks.items()},
        kind="dot",
    )


@cost_rule("ffi_call", name=ATTEND)
def attend(call: Call) -> Cost:
    """A token's keys and values are written into the cache; only the tokens in it are read."""
    return _attend(call, layers=1)


@cost_rule("ffi_call", name=ATTEND_IN_STACK)
def attend_in_stack(call: Call) -> Cost:
    """As `attend`, in one of the stacked caches."""
    return _attend(call, layers=call.inputs[3].dims[0])


def _attend(call: Call, layers: int) -> Cost:
    q, new = call.inputs[0], call.inputs[1]
    keys, values = call.inputs[3], call.inputs[4]
    axis = len(keys.dims) - 2
    length = keys.dims[axis]
    tokens = length if call.context is None else min(length, call.context)
    return Cost(
        flops={"float32": 2 * 2 * q.size * tokens},  # scores, and the mix of the values
        reads={3: keys.size // layers, 4: values.size // layers},
        writes={1: new.size, 2: new.size},
        in_place={1: 3, 2: 4},
        token_axes={3: axis, 4: axis},
        kind="dot",
    )


@cost_rule("ffi_call", name=RMS_NORM)
def rms_norm(call: Call) -> Cost:
    """A square, a sum and two factors for each number; the rows' roots are left out."""
    return Cost(flops={"float32": 4 * call.inputs[0].size}, kind="reduction")


@cost_rule("ffi_call", name=READ)
def read(_: Call) -> Cost:
    """Every operand is read, for the sake of reading it."""
    return Cost(kind="reduction")
