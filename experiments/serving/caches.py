"""Where the caches of sessions are: in use, idle on the instance, at its hosts, or nowhere.

Room on the instance is counted in bytes on its fullest chip. A call that is admitted reserves what
its whole context will take when it has been answered; what stays afterwards is idle, for the next
call of its session. When room is short the idle cache that was used longest ago goes first, to the
hosts, or is dropped where they are full too; there the longest unused is dropped first. Writing to
the hosts takes no time of the instance.
"""

from collections import OrderedDict
from collections.abc import Iterable

from experiments.step_times import Room


class Caches:
    """One instance's; see the module. The sessions' numbers are the keys."""

    def __init__(self, room: Room, host_bytes: float) -> None:
        self._room = room
        self._free = room.free_bytes  # neither in use nor idle
        self._idle: OrderedDict[int, float] = OrderedDict()  # tokens, longest unused first
        self._host: OrderedDict[int, float] = OrderedDict()
        self._host_free = host_bytes
        self._idle_bytes = 0.0
        self.evicted = 0
        self.dropped = 0

    def place(self, session: int) -> str:
        """Where the session's cache is: "near", "host" or "gone"."""
        if session in self._idle:
            return "near"
        return "host" if session in self._host else "gone"

    def fits(self, tokens: float) -> bool:
        """Whether a context of so many tokens has room, if every idle cache but it goes."""
        return self._room.needed_bytes(tokens) <= self._free + self._idle_bytes

    def reserve(self, session: int, tokens: float) -> None:
        """Takes the room of a call's whole context; what was there of its session is part of it."""
        needed = self._room.needed_bytes(tokens)
        if session in self._idle:
            self._forget_idle(session)
        elif session in self._host:
            self._host_free += self._host_bytes(self._host.pop(session))
        while needed > self._free:
            self._evict()
        self._free -= needed

    def leave(self, session: int, tokens: float) -> None:
        """The call is answered: its context is idle from now on."""
        self._idle[session] = tokens
        self._idle_bytes += self._room.needed_bytes(tokens)

    def fill(self, held: Iterable[tuple[int, int]]) -> None:
        """As if (session, tokens) had been used one after the other; evictions are not counted."""
        for session, tokens in held:
            if self.fits(tokens):
                self.reserve(session, tokens)
                self.leave(session, tokens)
        self.evicted = self.dropped = 0

    def _forget_idle(self, session: int) -> float:
        tokens = self._idle.pop(session)
        held = self._room.needed_bytes(tokens)
        self._idle_bytes -= held
        self._free += held
        return tokens

    def _evict(self) -> None:
        session = next(iter(self._idle))
        tokens = self._forget_idle(session)
        self.evicted += 1
        needed = self._host_bytes(tokens)
        while needed > self._host_free and self._host:
            self._host_free += self._host_bytes(self._host.popitem(last=False)[1])
            self.dropped += 1
        if needed > self._host_free:
            self.dropped += 1
            return
        self._host[session] = tokens
        self._host_free -= needed

    def _host_bytes(self, tokens: float) -> float:
        return tokens * self._room.all_token_bytes
