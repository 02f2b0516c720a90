"""How an instance admits calls and what it does with caches that nobody uses at the moment."""

import dataclasses

from experiments.errors import ExperimentError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Policy:
    """See the fields; the defaults are those of a server that is not overloaded."""

    most_together: int = 256  # sequences that are decoded at once; no more are admitted
    most_waiting: int = 0  # calls that wait for admission; further ones are refused. 0: no limit
    whole_prompts: bool = False  # prefilled in one go, decoding meanwhile one token, not in chunks
    host_bytes: float = 2e12  # of one instance's hosts, for caches evicted from it; 0: dropped

    def __post_init__(self) -> None:
        if self.most_together < 1:
            raise ExperimentError(f"most_together must be at least 1, not {self.most_together}")
        if self.most_waiting < 0 or self.host_bytes < 0:
            raise ExperimentError("most_waiting and host_bytes must not be negative")
