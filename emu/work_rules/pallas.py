"""Pallas kernels: the body's FLOPs times the grid, the blocks' bytes as often as they are fetched.

A block is fetched again when its index changes from one step of the grid to the next, the last axis
of the grid running fastest: a block whose index depends on no axis is fetched once, one that
depends on axis 0 alone once for each of its steps, one that depends on the last axis at every step.

An operand that the kernel fetches by itself (no block mapping, copies by DMA) needs a cost rule:
`@emu.cost_rule("pallas_call", name=...)`.
"""

import math
from typing import Any

from emu.costs import Cost, own_rule
from emu.errors import EmuError
from emu.hints import Hints
from emu.interpreter import Site, interpret, opaque
from emu.jaxprs import inputs_read, opened, shape_of
from emu.tape import Tape
from emu.values import Cell, Value, constant, of_buffer


@own_rule("program_id", "num_programs")
def program_id(site: Site, *_: Value) -> Value:
    """A number that the kernel knows."""
    return constant(site.outs[0])


@own_rule("pallas_call")
def pallas_call(site: Site, *values: Value) -> list[Value]:
    """Body times grid; reads and writes by block."""
    mapping = site.params["grid_mapping"]
    grid = tuple(mapping.grid)
    if not all(isinstance(n, int) for n in grid):
        raise EmuError(
            f"pallas_call {site.where}: its grid is not known while tracing; give "
            "@emu.cost_rule('pallas_call', name=...)"
        )
    steps = math.prod(grid)
    index_count = int(mapping.num_index_operands)
    blocks = list(mapping.block_mappings)
    inputs = blocks[: int(mapping.num_inputs)]
    outputs = blocks[int(mapping.num_inputs) :]
    reads = {index_count + i: _fetched(block, grid) for i, block in enumerate(inputs)}
    writes = {i: _fetched(block, grid) for i, block in enumerate(outputs)}
    aliases = {int(o): int(i) for i, o in site.params.get("input_output_aliases") or ()}
    cost = Cost(
        flops={d: n * steps for d, n in _body_flops(site).items()},
        reads=reads,
        writes=writes,
        in_place=aliases,
        kind="pallas",
    )
    return opaque(site, [site.in_memory(v) for v in values], cost)


def _fetched(block: Any, grid: tuple[int, ...]) -> int:
    """Elements of one operand that all steps fetch together."""
    size = math.prod(_length(n) for n in block.block_shape)
    depends = inputs_read(block.index_map_jaxpr)[: len(grid)]
    axes = [i for i, read in enumerate(depends) if read]
    times = math.prod(grid[: axes[-1] + 1]) if axes else 1
    return size * times


def _length(n: Any) -> int:
    """Of one dimension of a block: a plain number, a Blocked or an Element, or one entry."""
    if n is None:
        return 1
    return int(n if isinstance(n, int) else getattr(n, "block_size", 1))


def _body_flops(site: Site) -> dict[str, int]:
    """FLOPs of one step, by dtype."""
    inner, _ = opened(site.params["jaxpr"])
    tape = Tape(Hints(trip_counts=site.tape.hints.trip_counts, branches=site.tape.hints.branches))
    refs = [
        Value(shape=shape, cell=Cell(content=of_buffer(tape.buffer(shape))))
        for shape in (shape_of(v.aval) for v in inner.invars)
    ]
    interpret(site.params["jaxpr"], refs, tape)
    total: dict[str, int] = {}
    for entry in tape.entries:
        for dtype, n in entry.flops.items():
            total[dtype] = total.get(dtype, 0) + n * entry.count
    for note in tape.notes:
        site.tape.note(note)
    return total
