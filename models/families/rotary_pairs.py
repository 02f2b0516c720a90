"""Rotary channels that a file holds in pairs, put into halves, as we turn them."""

from collections.abc import Callable

import numpy as np


def halves(
    *, head_width: int, turning: int, first: bool = False
) -> Callable[[np.ndarray], np.ndarray]:
    """Reorders the rows [heads × head_width, in], of which each head's last `turning` turn.

    `first`: the first ones turn. Pairs (0, 1), (2, 3), … become (0, t/2), (1, t/2 + 1), …; products
    of a query with a key do not change, as both are reordered alike.
    """
    order = np.arange(head_width)
    start = 0 if first else head_width - turning
    pairs = order[start : start + turning].reshape(-1, 2)
    order[start : start + turning] = pairs.T.reshape(-1)

    def take(rows: np.ndarray) -> np.ndarray:
        heads = rows.reshape(-1, head_width, *rows.shape[1:])
        return heads[:, order].reshape(rows.shape)

    return take
