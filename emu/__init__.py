"""Place the weights of a JAX function in real or described memories, and time its steps."""

from emu.chips import Chip, Curve, Link, Memory, Sourced
from emu.errors import CapacityError, EmuError
from emu.host import host
from emu.measure import Latency, Recorder, measure
from emu.placement import Placement, Residency, place
from emu.residency import Realized, realize
from emu.rules import Rule
from emu.system import System
from emu.work import Leaf, Work, leaves_of

__all__ = [
    "CapacityError",
    "Chip",
    "Curve",
    "EmuError",
    "Latency",
    "Leaf",
    "Link",
    "Memory",
    "Placement",
    "Realized",
    "Recorder",
    "Residency",
    "Rule",
    "Sourced",
    "System",
    "Work",
    "host",
    "leaves_of",
    "measure",
    "place",
    "realize",
]
