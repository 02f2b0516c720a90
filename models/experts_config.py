"""The numbers of a mixture of experts."""

import dataclasses

from models.errors import ModelError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experts:
    """Which experts there are, and how a router chooses among them."""

    count: int
    chosen: int  # for each token
    width: int  # of each one's MLP
    scores: str = "softmax"  # of the router's products; or "sigmoid"
    normalised: bool = True  # the chosen experts' shares are made to sum to 1
    factor: float = 1.0  # on the shares
    corrected: bool = False  # a learnt correction is added to the scores, for choosing alone
    groups: int = 1  # experts are chosen from the best `chosen_groups` of so many groups
    chosen_groups: int = 1
    group_best: int = 2  # a group is as good as so many of its best experts are together
    bias: bool = False  # on the router and on the experts
    scales_input: bool = False  # shares multiply what goes into an expert, not what comes out
    shared_width: int = 0  # of the MLP that every token goes through as well; 0: there is none
    shared_gate: bool = False  # what that one gives is gated by a sigmoid of one product
    dense_layers: int = 0  # the first so many layers have a dense MLP instead
    every: int = 1  # after them, the last of every so many layers is routed

    def __post_init__(self) -> None:
        for field in ("count", "chosen", "width", "groups", "chosen_groups", "every"):
            if getattr(self, field) < 1:
                raise ModelError(
                    f"config: experts' {field} must be at least 1, not {getattr(self, field)}"
                )
        if self.chosen > self.count or self.chosen_groups > self.groups:
            raise ModelError(
                f"config: {self.chosen} of {self.count} experts, or {self.chosen_groups} of "
                f"{self.groups} groups of them, cannot be chosen"
            )
        if self.count % self.groups or (self.groups > 1 and self.count // self.groups < 2):
            raise ModelError(
                f"config: {self.count} experts do not make {self.groups} groups of 2 or more"
            )
        if self.chosen > self.count // self.groups * self.chosen_groups:
            raise ModelError(
                f"config: {self.chosen_groups} groups of {self.count // self.groups} experts do "
                f"not hold {self.chosen}"
            )
        if not 1 <= self.group_best <= max(2, self.count // self.groups):
            raise ModelError(
                f"config: a group of {self.count // self.groups} experts cannot be as good as its "
                f"best {self.group_best}"
            )
        if self.scores not in ("softmax", "sigmoid"):
            raise ModelError(
                f"config: experts' scores must be softmax or sigmoid, not {self.scores!r}"
            )

    def routes(self, layer: int) -> bool:
        """Whether layer number `layer` is a mixture of experts."""
        after = layer - self.dense_layers
        return after >= 0 and after % self.every == self.every - 1
