"""Rotary channels that a file holds in pairs, put into halves, as we turn them."""

from collections.abc import Callable

import numpy as np


def halves(*, head_width: int, turning: int) -> Callable[[np.ndarray], np.ndarray]:
    """Reorders the rows [heads × head_width, in], of which each head's last `turning` turn.

    Pairs (0, 1), (2, 3), … become (0, t/2), (1, t/2 + 1), …; products of a query with a key do not
    change, as both are reordered alike.
    """
    staying = head_width - turning
    order = np.concatenate(
        [
            np.arange(staying),
            staying + np.arange(0, turning, 2),
            staying + np.arange(1, turning, 2),
        ]
    )

    def take(rows: np.ndarray) -> np.ndarray:
        heads = rows.reshape(-1, head_width, *rows.shape[1:])
        return heads[:, order].reshape(rows.shape)

    return take
