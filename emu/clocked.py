"""The seconds of every row of a schedule, as the clock finds them."""

from typing import Any, NamedTuple


class Clocked(NamedTuple):
    """Arrays of seconds by row; `seconds`, `per_step` and `launching` are the whole step's."""

    seconds: Any
    per_step: Any  # once a step, for the stack
    launching: Any  # all of `before`
    before: Any  # launch, exposed latency, and crossing a mesh of cores
    crossing: Any | None  # the last of these alone; None: no mesh
    busy: Any
    compute: Any
    exchange: Any
    needed: Any  # the most of compute, ports and entry, as if nothing were fetched ahead
    by_kind: Any  # [kinds, rows]: bytes of each kind over the bandwidth of where they live
    at_run: list[Any]  # [ports] of [rows]: of each port, for what is not fetched ahead
    # Of ports that fetch ahead: what each row needs, and the stalls of the whole step.
    feeds: dict[int, Any]
    waits: dict[int, Any]
