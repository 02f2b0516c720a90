"""The seconds of every row of a schedule, as the clock finds them."""

from typing import Any, NamedTuple


class Clocked(NamedTuple):
    """Arrays of seconds by row; `seconds` is the whole step's."""

    seconds: Any
    per_step: Any  # once a step, for the stack
    before: Any  # launch, exposed latency, and crossing a mesh of cores
    crossing: Any  # the last of these alone
    busy: Any
    compute: Any
    exchange: Any
    needed: Any  # the most of compute, ports and entry, as if nothing were fetched ahead
    by_kind: Any  # [kinds, rows]: bytes of each kind over the bandwidth of where they live
    at_run: Any  # [memories, rows]: of each port, for what is not fetched ahead
    # Of ports that fetch ahead: feed, and caps [rows, 2] on the lead as a row begins and ends.
    feeds: dict[int, tuple[Any, Any]]
    waits: dict[int, Any]  # of those ports: the stalls of the whole step
