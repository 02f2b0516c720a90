"""Place the weights of a JAX function in real or described memories, and time its steps."""

from emu.chip_file import load_chip
from emu.chip_names import chip, chips
from emu.chip_units import check_chip
from emu.chips import Chip, Curve, Link, Memory, Sourced
from emu.costs import Call, Cost, cost_rule
from emu.errors import CapacityError, EmuError
from emu.hints import Hints
from emu.host import host, host_pairs, host_stack
from emu.measure import MOST_DISTURBED, Latency, Recorder, measure
from emu.perfetto import write_trace
from emu.placement import Placement, Residency, place
from emu.residency import Realized, realize
from emu.rules import Rule
from emu.sharding import Layout, shard
from emu.splits import Split
from emu.spreading import Spread, spread
from emu.stacks import Stack, stack, stacks
from emu.system import System
from emu.timeline import Span, Timeline
from emu.timing import predict
from emu.tracing import trace
from emu.work import Access, Collective, Leaf, Op, Work, leaves_of

__all__ = [
    "MOST_DISTURBED",
    "Access",
    "Call",
    "CapacityError",
    "Chip",
    "Collective",
    "Cost",
    "Curve",
    "EmuError",
    "Hints",
    "Latency",
    "Layout",
    "Leaf",
    "Link",
    "Memory",
    "Op",
    "Placement",
    "Realized",
    "Recorder",
    "Residency",
    "Rule",
    "Sourced",
    "Span",
    "Split",
    "Spread",
    "Stack",
    "System",
    "Timeline",
    "Work",
    "check_chip",
    "chip",
    "chips",
    "cost_rule",
    "host",
    "host_pairs",
    "host_stack",
    "leaves_of",
    "load_chip",
    "measure",
    "place",
    "predict",
    "realize",
    "shard",
    "spread",
    "stack",
    "stacks",
    "trace",
    "write_trace",
]
