"""Calls out of the program. A foreign kernel's cost is its author's to give (`emu.cost_rule` by
target name); printing and callbacks for their effect cost nothing on the device.
"""

from emu.costs import Cost, own_rule
from emu.interpreter import Site, opaque, unknown
from emu.values import Value


@own_rule("ffi_call")
def ffi_call(site: Site, *values: Value) -> list[Value]:
    """Without a rule by target name: an error that asks for one."""
    raise unknown(site, values)


@own_rule(
    "debug_callback", "debug_print", "check", "inspect_sharding", "shape_assertion", "dce_sink"
)
def for_its_effect(_site: Site, *_: Value) -> list[Value]:
    """Costs nothing on the device."""
    return []


@own_rule("pure_callback", "io_callback")
def callback(site: Site, *values: Value) -> list[Value]:
    """Its operands are read and its results written; the time on the host is not modelled."""
    site.tape.note(f"{site.name} {site.where}: the host's time for it is not modelled")
    return opaque(site, [site.in_memory(v) for v in values], Cost(kind="callback"))
