"""Speculative decoding: a draft proposes tokens one by one, the model checks them all at once.

One step is `drafts` steps of the draft and one step of the model over drafts + 1 tokens (trace it
with that many), and keeps as many tokens as were right, and one more (Leviathan, Kalman, Matias,
"Fast Inference from Transformers via Speculative Decoding", arXiv 2211.17192). Heads of the model
itself that propose tokens (MTP, Medusa) are a draft whose step is that head's.
"""

import dataclasses
from typing import Any

from emu.errors import EmuError
from emu.records import pytree
from emu.timeline import Timeline


def tokens_kept(acceptance: Any, drafts: int) -> Any:
    """Tokens that one step gives on average, where each draft token is right so often.

    (1 - a^(k+1)) / (1 - a) for k drafts: equation 1 of the paper, each token's chance alike.

    acceptance: from 0 to 1, traced or not.
    """
    if drafts < 0:
        raise EmuError(f"speculation: drafts must be at least 0, not {drafts}")
    if isinstance(acceptance, int | float) and not 0 <= acceptance <= 1:
        raise EmuError(f"speculation: acceptance is a share from 0 to 1, not {acceptance}")
    return sum(acceptance**n for n in range(drafts + 1))


@pytree(static=("drafts",))
@dataclasses.dataclass(frozen=True, kw_only=True)
class Speculation:
    """A step of speculative decoding, put together from two predicted ones."""

    model: Timeline  # one step over drafts + 1 tokens of each sequence
    draft: Timeline | None  # one step of the draft; None: proposals cost nothing (prompt lookup)
    drafts: int
    tokens_per_step: Any  # kept on average: from 1 to drafts + 1

    def __post_init__(self) -> None:
        kept = self.tokens_per_step
        if isinstance(kept, int | float) and not 1 <= kept <= self.drafts + 1:
            raise EmuError(
                f"speculation: {self.drafts} drafts give 1 to {self.drafts + 1} tokens per step, "
                f"not {kept}"
            )

    @property
    def seconds_per_step(self) -> Any:
        """All drafts, then the check."""
        drafting = 0.0 if self.draft is None else self.drafts * self.draft.seconds
        return drafting + self.model.seconds

    @property
    def seconds_per_token(self) -> Any:
        """What one user sees between tokens, on average."""
        return self.seconds_per_step / self.tokens_per_step
