"""The table of axis rules, and what one says.

A rule takes an equation's `Site` and the values that go in, unifies the axes that the equation
walks together, and gives a `Followed`. A primitive without a rule is no error: its results get axes
of their own, and it is taken to need all of its inputs.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from emu.axes import Dims, Ids


@dataclasses.dataclass(frozen=True, kw_only=True)
class Followed:
    """The axes of an equation's results, and those that its ops' work is spread over."""

    outs: Sequence[Dims]
    axes: Ids | None = None  # that its FLOPs are spread over; None: those of its results
    summed: Ids = ()
    indexed: Ids = ()  # of tensors from which it picks entries
    whole: Ids = ()  # that it needs all entries of
    written: Ids | None = None  # of an update in place: of the part that is written


AxisRule = Callable[..., Followed]

_RULES: dict[tuple[str, str | None], AxisRule] = {}


def axis_rule(*primitives: str, name: str | None = None) -> Callable[[AxisRule], AxisRule]:
    """Register a rule; `name`: only for an FFI target (or a jitted function) of that name."""

    def register(rule: AxisRule) -> AxisRule:
        for primitive in primitives:
            assert (primitive, name) not in _RULES, primitive
            _RULES[primitive, name] = rule
        return rule

    return register


def find_axis_rule(primitive: str, name: str | None = None) -> Any:
    """The rule for a primitive (of that name), if there is one."""
    return _RULES.get((primitive, name))
