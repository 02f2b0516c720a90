"""The numbers of multi-head latent attention, and of the indexer that may choose what it reads."""

import dataclasses

from models.errors import ModelError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Indexer:
    """Scores every token in the cache by `heads` short queries, and keeps the best."""

    heads: int
    width: int  # of a query and of the one key
    chosen: int  # tokens that a token attends to, at most

    def __post_init__(self) -> None:
        for field in ("heads", "width", "chosen"):
            if getattr(self, field) < 1:
                raise ModelError(
                    f"config: the indexer's {field} must be at least 1, not {getattr(self, field)}"
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latent:
    """What is cached for a token: a latent of `rank`, and a key of `rope_width` that turns."""

    rank: int
    rope_width: int  # of each head's q and of the one key; the rest of a head does not turn
    value_width: int  # of each head
    query_rank: int | None = None  # q comes from a latent too; None: from the hidden state
    indexer: Indexer | None = None  # None: a token attends to all before it

    def __post_init__(self) -> None:
        for field in ("rank", "rope_width", "value_width"):
            if getattr(self, field) < 1:
                raise ModelError(
                    f"config: latent attention's {field} must be at least 1, "
                    f"not {getattr(self, field)}"
                )
        if self.query_rank is not None and self.query_rank < 1:
            raise ModelError(f"config: query_rank must be at least 1, not {self.query_rank}")
        if self.indexer is None:
            return
        if self.query_rank is None:
            raise ModelError("config: an indexer needs the latent that queries come from")
        if self.indexer.width < self.rope_width:
            raise ModelError(
                f"config: the indexer turns {self.rope_width} channels and is "
                f"{self.indexer.width} wide"
            )
