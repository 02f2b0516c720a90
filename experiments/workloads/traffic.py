"""Calls of a model as arrays: what a sampler draws and a trace holds, and what a simulation serves.

A session is a chain of calls: each comes `delay_s` after the answer to the one before it, the first
one that long after the session's start. Calls that stand alone are sessions of one call.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from experiments.errors import ExperimentError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traffic:
    """Arrays with an entry a call, in the order of their sessions; tokens are whole numbers."""

    start_s: Floats  # of each session
    session: Ints  # of each call: which session it belongs to, rising
    request: Ints  # of each call: which of a person's requests it is a step of, rising
    delay_s: Floats
    prefix_tokens: Ints  # of the context, from calls before
    append_tokens: Ints  # to prefill in any case
    output_tokens: Ints  # at least 1
    tool_s: Floats  # of tools after the call, within the request; part of the next call's delay
    observed_llm_s: Floats  # by the source, on its own systems; nan where it does not say

    def __post_init__(self) -> None:
        lengths = {len(getattr(self, f.name)) for f in dataclasses.fields(self)} - {
            len(self.start_s)
        }
        assert len(lengths) <= 1, lengths
        assert len(self.session) == 0 or self.session[-1] + 1 == len(self.start_s)

    def __len__(self) -> int:
        return len(self.session)

    @property
    def tokens(self) -> Ints:
        """Of the whole context when a call has been answered."""
        return self.prefix_tokens + self.append_tokens + self.output_tokens

    def within(self, window: int) -> "Traffic":
        """The same traffic for a model with this window: what is beyond it is cut from the prefix.

        An agent compacts its context before the window is full. Raises ExperimentError where a
        prompt and its answer alone are longer than the window.
        """
        new = self.append_tokens + self.output_tokens
        over = int(np.argmax(new)) if len(new) else 0
        if len(new) and new[over] > window:
            append = np.minimum(self.append_tokens, window // 2)
            output = np.minimum(self.output_tokens, window // 4)
            if np.any(self.prefix_tokens[new > window] == 0):
                raise ExperimentError(
                    f"a call of {new[over]:,} new tokens is beyond the window of {window:,}: take "
                    "a model or a deployment with a longer one"
                )
            short = dataclasses.replace(self, append_tokens=append, output_tokens=output)
            return short.within(window)
        room = window - new
        return dataclasses.replace(self, prefix_tokens=np.minimum(self.prefix_tokens, room))

    def share_beyond(self, window: int) -> float:
        """Of the calls, those that `within` cuts."""
        return float(np.mean(self.tokens > window)) if len(self) else 0.0
