"""Traffic on one instance: who waits, who is decoded with whom, and how long each call takes.

Steps follow each other without a pause while there is anything to do. Each decodes one token (or
what speculation keeps) of every sequence that is admitted, in the time that the table has for so
many sequences at their mean context, and takes one chunk of one prompt along, first come first
served. A chunk adds to the step what it takes alone, less one reading of the weights, which both
share. The first token comes with the last chunk.

Between two events (an arrival that can be admitted, an answered call, a prefilled prompt) all steps
are alike but for contexts that grow evenly, so that they are taken at once, at the context in the
middle. A call waits until the one before it in the queue is prefilled, there is a place for it
(`Policy.most_together`), and room for its whole context (`experiments.serving.caches`); nobody who
is admitted is turned out again. A prefix that waits at the hosts is loaded when its call arrives,
beside the steps; one that was dropped is prefilled again.
"""

import dataclasses
import heapq
import math
from collections import deque
from collections.abc import Sequence

import numpy as np

import emu
from experiments.serving.caches import Caches
from experiments.serving.policy import Policy
from experiments.session_time import Service
from experiments.step_times import StepTimes
from experiments.workloads.traffic import Floats, Traffic

PLACES = ("new", "near", "host", "gone")  # where the prefix of a call was found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Log:
    """What became of each call, as arrays; nan for a call that was refused or never made."""

    arrival_s: Floats
    ready_s: Floats  # its prefix is loaded
    admitted_s: Floats
    first_s: Floats  # its first token
    done_s: Floats
    place: Floats  # an index of PLACES
    busy_s: float  # in which the instance did anything, until the last session started
    end_s: float
    steps: int
    refused: int
    evicted: int
    dropped: int

    @property
    def answered(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Marks the calls that were."""
        return np.asarray(np.isfinite(self.done_s))


def check_room(traffic: Traffic, times: StepTimes) -> None:
    """Raises CapacityError where the instance has no room for one of the calls, alone."""
    most = int(traffic.tokens.max())
    needed, free = times.room.needed_bytes(most), times.room.free_bytes
    if needed > free:
        chips = math.ceil(
            times.chips * (needed + times.room.fixed_bytes) / times.room.capacity_bytes
        )
        raise emu.CapacityError(
            f"a context of {most:,} tokens takes {needed:,.0f} bytes of the fullest chip of "
            f"{times.system}, which has {free:,.0f} beside the weights; about {chips} chips would "
            "do (sequences=1 with chips=0 finds them), or a shorter window_tokens"
        )


def simulate(
    traffic: Traffic,
    times: StepTimes,
    service: Service,
    policy: Policy,
    held: Sequence[tuple[int, int]] = (),
) -> Log:
    """Serve all calls.

    Args:
      traffic: sessions in any order of starts; a call comes after the answer to the one before it.
      times: of the instance.
      service: its network and speculation are used; where idle caches are is found here.
      policy: of admission and eviction.
      held: caches that are there before, (session, tokens), longest unused first; numbers below 0
        are of sessions that never come again.

    Raises:
      CapacityError: a context that has no room even alone.
    """
    check_room(traffic, times)
    return _Run(traffic, times, service, policy, held).log()


class _Run:
    """The state of one simulation."""

    def __init__(
        self,
        traffic: Traffic,
        times: StepTimes,
        service: Service,
        policy: Policy,
        held: Sequence[tuple[int, int]],
    ) -> None:
        calls = len(traffic)
        self.times, self.policy = times, policy
        self.kept = service.tokens_per_step
        self.longer = 1 + service.drafted * service.draft_share
        self.network_s = service.network_s
        self.caches = Caches(times.room, policy.host_bytes)
        self.caches.fill(held)
        last = np.append(traffic.session[1:] != traffic.session[:-1], True)
        # Plain lists: the loop reads them one by one.
        self.session: list[int] = traffic.session.tolist()
        self.is_last = last.tolist()
        self.delay_s = traffic.delay_s.tolist()
        self.prefix = traffic.prefix_tokens.tolist()
        self.tokens: list[int] = traffic.tokens.tolist()
        self.output: list[int] = traffic.output_tokens.tolist()
        append = traffic.append_tokens
        before, whole = traffic.prefix_tokens, append + traffic.prefix_tokens
        # Alone, and beside others.
        self.warm_s = [times.prefill_s(append, before, beside=b).tolist() for b in (False, True)]
        self.cold_s = [times.prefill_s(whole, 0.0, beside=b).tolist() for b in (False, True)]
        size = np.inf if policy.whole_prompts else times.chunk
        self.warm_chunks = np.maximum(1, np.ceil(append / size)).astype(int).tolist()
        self.cold_chunks = np.maximum(1, np.ceil(whole / size)).astype(int).tolist()
        moved = traffic.prefix_tokens * times.room.all_token_bytes
        self.load_s = (moved / times.host_bytes_per_s).tolist()

        self.arrival, self.ready, self.admitted, self.first, self.done, self.place = (
            [math.nan] * calls for _ in range(6)
        )
        self.now = self.busy = 0.0
        self.last_start = float(traffic.start_s.max())
        self.steps = 0
        self.refused = 0
        self.waiting: deque[int] = deque()
        self.decoding: list[tuple[int, int]] = []  # (step after which it is done, call)
        self.context = 0.0  # of all that are decoded, together
        self.prompt = -1  # the call that is being prefilled
        self.chunks_left = 0
        self.chunk_s = self.added_s = 0.0  # of a chunk alone, and beside others
        firsts = np.flatnonzero(np.append(True, last[:-1]))
        starts = traffic.start_s + traffic.delay_s[firsts]
        # (when, call, whether it comes now, or is ready now)
        self.events = [(float(t), int(c), False) for t, c in zip(starts, firsts, strict=True)]
        heapq.heapify(self.events)

    def log(self) -> Log:
        while self.events or self.waiting or self.decoding or self.prompt >= 0:
            self._receive()
            self._admit()
            if self.decoding or self.prompt >= 0:
                self._advance()
            elif self.events:
                self.now = max(self.now, self.events[0][0])
        arrays = (self.arrival, self.ready, self.admitted, self.first, self.done, self.place)
        arrival, ready, admitted, first, done, place = (np.array(a, np.float64) for a in arrays)
        return Log(
            arrival_s=arrival,
            ready_s=ready,
            admitted_s=admitted,
            first_s=first,
            done_s=done,
            place=place,
            busy_s=self.busy,
            end_s=self.now,
            steps=self.steps,
            refused=self.refused,
            evicted=self.caches.evicted,
            dropped=self.caches.dropped,
        )

    def _receive(self) -> None:
        """Everything that has come by now."""
        while self.events and self.events[0][0] <= self.now:
            when, call, is_ready = heapq.heappop(self.events)
            if not is_ready:
                self.arrival[call] = when
                most = self.policy.most_waiting
                if most and len(self.waiting) >= most:
                    self.refused += 1  # and the rest of its session never comes
                    continue
                if self.prefix[call] and self.caches.place(self.session[call]) == "host":
                    heapq.heappush(self.events, (when + self.load_s[call], call, True))
                    continue
            self.ready[call] = when
            self.waiting.append(call)

    def _admit(self) -> None:
        """The first in the queue, where there is a place and room for it."""
        if not self.waiting or self.prompt >= 0:
            return
        call = self.waiting[0]
        if len(self.decoding) >= self.policy.most_together:
            return
        if not self.caches.fits(self.tokens[call]):
            return
        self.waiting.popleft()
        session = self.session[call]
        place = self.caches.place(session) if self.prefix[call] else "new"
        self.caches.reserve(session, self.tokens[call])
        self.admitted[call] = self.now
        self.place[call] = PLACES.index(place)
        cold = place == "gone"
        self.prompt = call
        self.chunks_left = (self.cold_chunks if cold else self.warm_chunks)[call]
        alone, beside = self.cold_s if cold else self.warm_s
        self.chunk_s = alone[call] / self.chunks_left
        self.added_s = beside[call] / self.chunks_left

    def _advance(self) -> None:
        """As many steps as are alike."""
        together, prompt = len(self.decoding), self.prompt >= 0
        most = self.chunks_left if prompt else self.decoding[0][0] - self.steps
        if prompt and together:
            most = min(most, self.decoding[0][0] - self.steps)
        step = self._step_s(0)
        if self.events and not prompt and not self.waiting:
            until = self.events[0][0] - self.now
            if step * most > until:
                most = min(most, max(1, math.ceil(until / step)))
        if together and most > 1:
            step = self._step_s(most / 2)
        took = step * most
        self.now += took
        self.busy += max(0.0, min(self.now, self.last_start) - (self.now - took))
        self.steps += most
        self.context += together * self.kept * most
        if prompt:
            self.chunks_left -= most
            if not self.chunks_left:
                self._prefilled()
        while self.decoding and self.decoding[0][0] <= self.steps:
            call = heapq.heappop(self.decoding)[1]
            self.context -= self._grown(call)
            self._answered(call)

    def _step_s(self, later: float) -> float:
        """Seconds of the step so many steps from now, if nothing happens until then."""
        together = len(self.decoding)
        if not together:
            return self.chunk_s
        context = self.context / together + self.kept * later
        step = self.times.step_s(together, context) * self.longer
        return step + self.added_s if self.prompt >= 0 else step

    def _prefilled(self) -> None:
        call, self.prompt = self.prompt, -1
        self.first[call] = self.now
        more = self._steps_of(call)
        if more:
            heapq.heappush(self.decoding, (self.steps + more, call))
            self.context += self.tokens[call] - self.output[call] + 1
        else:
            self._answered(call)

    def _steps_of(self, call: int) -> int:
        return math.ceil((self.output[call] - 1) / self.kept)

    def _grown(self, call: int) -> float:
        """Its context after its last step."""
        return self.tokens[call] - self.output[call] + 1 + self.kept * self._steps_of(call)

    def _answered(self, call: int) -> None:
        self.done[call] = self.now
        self.caches.leave(self.session[call], self.tokens[call])
        if not self.is_last[call]:
            when = self.now + self.network_s + self.delay_s[call + 1]
            heapq.heappush(self.events, (when, call + 1, False))
