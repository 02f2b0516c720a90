"""How far off the predictions of a case file are, as lines for the terminal."""

import collections
from collections.abc import Iterator, Sequence

import numpy as np

from emu.fitted import fitted


def summary(rows: Sequence[dict[str, str]]) -> Iterator[str]:
    """Lines for the terminal."""
    groups: dict[str, list[dict[str, str]]] = collections.defaultdict(list)
    for row in rows:
        if row["error"]:
            groups["all"].append(row)
            groups[f"tier {row['tier']}"].append(row)
            if row["tier"] in ("1", "2"):
                groups["tiers 1 and 2"].append(row)
            groups[f"  {row['chip']} {row['stack']}"].append(row)
    yield f"{'absolute error of':<42}  rows   median     mean      p90  not done"
    for name in sorted(groups, key=lambda n: (n.startswith(" "), n)):
        off = np.abs([float(row["error"]) for row in groups[name]])
        undone = sum(bool(row["why"]) for row in groups[name])
        yield (
            f"{name:<42} {len(off):>5} {np.median(off):>8.1%} {off.mean():>8.1%} "
            f"{np.quantile(off, 0.9):>8.1%} {undone:>9}"
        )
    parameters = sum(one.number.kind == "fitted" for one in fitted())
    yield f"{parameters} numbers were fitted (experiments/measured/README.md says to which rows)"
