"""The table of cost rules, and the public way to add to it.

A rule of emu's own takes a `Site` and the values that go in, and returns the values that come out
(`emu.work_rules`). A caller's rule is simpler: it takes a `Call` (shapes and parameters) and
returns a `Cost`.

    @emu.cost_rule("ffi_call", name="my_matvec")
    def matvec(call):
        out, width = call.inputs[1].dims
        return emu.Cost(flops={"float32": 2 * out * width})

A caller's rule comes before emu's own for the same primitive; one with a name (an FFI target, a
Pallas kernel, a jitted function) before one without.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from emu.errors import EmuError
from emu.jaxprs import Shape, bits_of

OwnRule = Callable[..., Any]

_OWN: dict[str, OwnRule] = {}
_USERS: dict[tuple[str, str | None], Callable[["Call"], "Cost"]] = {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Call:
    """One use of a primitive, as a caller's cost rule sees it."""

    primitive: str
    name: str | None  # the FFI target's, Pallas kernel's or jitted function's
    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]
    params: Mapping[str, Any]  # the equation's; an ffi_call's attributes are under their own names
    context: int | None = None  # tokens in the KV cache, where a hint says so


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """What one run costs. Counts are of elements; bytes follow from how each is stored."""

    flops: Mapping[str, int] = dataclasses.field(default_factory=dict)  # by dtype
    # Elements read of inputs, by position; an input that is not named is read whole, once.
    reads: Mapping[int, int] = dataclasses.field(default_factory=dict)
    # Elements written of outputs, by position; one that is not named is written whole.
    writes: Mapping[int, int] = dataclasses.field(default_factory=dict)
    in_place: Mapping[int, int] = dataclasses.field(
        default_factory=dict
    )  # output: input it updates
    # Inputs that are a KV cache: the axis that its tokens lie along. Of what is read, only the part
    # that is in the cache is charged.
    token_axes: Mapping[int, int] = dataclasses.field(default_factory=dict)
    kind: str = "call"

    def __post_init__(self) -> None:
        for field in ("flops", "reads", "writes"):
            for key, n in getattr(self, field).items():
                if isinstance(n, bool) or not isinstance(n, int) or n < 0:
                    raise EmuError(
                        f"Cost: {field}[{key!r}] must be a count (a Python int of at least 0), "
                        f"not {n!r}"
                    )
        for dtype in self.flops:
            try:
                known = isinstance(dtype, str) and bits_of(dtype) > 0
            except TypeError:
                known = False
            if not known:
                raise EmuError(
                    f"Cost: flops are by dtype, such as 'bfloat16', and {dtype!r} is none"
                )

    def check(self, call: Call) -> None:
        """Raises EmuError for positions that this call has not."""
        inputs = {"reads": self.reads, "in_place": self.in_place.values()}
        inputs |= {"token_axes": self.token_axes}
        outputs = {"writes": self.writes, "in_place": self.in_place}
        for what, named, count in (
            ("input", inputs, len(call.inputs)),
            ("output", outputs, len(call.outputs)),
        ):
            for field, positions in named.items():
                for i in positions:
                    if i not in range(count):
                        raise EmuError(
                            f"cost_rule of {call.primitive}: {field} names {what} {i!r} of {count} "
                            "(from 0 on)"
                        )


def cost_rule(
    primitive: str, name: str | None = None
) -> Callable[[Callable[[Call], Cost]], Callable[[Call], Cost]]:
    """Give a primitive its cost, or an FFI target, Pallas kernel or jitted function by `name`.

    A decorator for a function from `Call` to `Cost`. The last rule given for the same primitive and
    name holds.
    """
    if not isinstance(primitive, str) or not primitive:
        raise EmuError(f"cost_rule: the primitive is named by a string, not {primitive!r}")

    def register(rule: Callable[[Call], Cost]) -> Callable[[Call], Cost]:
        _USERS[primitive, name] = rule
        return rule

    return register


def own_rule(*primitives: str) -> Callable[[OwnRule], OwnRule]:
    """Register one of emu's own rules."""

    def register(rule: OwnRule) -> OwnRule:
        for primitive in primitives:
            assert primitive not in _OWN, primitive
            _OWN[primitive] = rule
        return rule

    return register


def find_own(primitive: str) -> OwnRule | None:
    """Emu's own rule for a primitive."""
    return _OWN.get(primitive)


def find_users(primitive: str, name: str | None) -> Callable[[Call], Cost] | None:
    """A caller's rule for a primitive, by its name first."""
    return _USERS.get((primitive, name)) or _USERS.get((primitive, None))
