"""On chip against off chip, and both against what `emu.host()` measured, on the smallest sizes.

The residency sweep itself, on one, two and four layers and on thin ones that are less than a layer,
in a folder of its own that is thrown away. What the host measured is measured again beside each
size, as the sweep does.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments import cliff, cliff_summary
from experiments.cliff_summary import Point
from experiments.results import ResultsFile

LAYERS = (1, 2, 4)
THIN = (1, 2)
PLACEMENTS = ("on-chip", "off-chip", "half-on-chip")


def measured(model: str, dtypes: tuple[str, ...]) -> list[Point]:
    """The sweep's points for all dtypes, sizes and placements."""
    settings = cliff.Settings(
        model=model,
        dtypes=dtypes,
        layers=LAYERS,
        thin=THIN,
        placements=PLACEMENTS,
        fresh_host=True,  # in the same run as what is held against it
    )
    with tempfile.TemporaryDirectory() as folder, ResultsFile(Path(folder)) as results:
        cliff.run(cliff.plan(settings), results)
        return [cliff_summary.point(row) for row in results.rows]


def rows(points: list[Point]) -> Iterator[dict[str, Any]]:
    """The advantage on chip, the host's figures, and mixed placements against their parts."""
    at = {(p.dtype, p.layers, p.placement): p for p in points}
    for dtype in dict.fromkeys(p.dtype for p in points):
        layers = sorted({p.layers for p in points if p.dtype == dtype})
        fitting = [n for n in layers if not at[dtype, n, "on-chip"].excess_bytes]
        if not fitting:
            continue
        on, off = at[dtype, fitting[-1], "on-chip"], at[dtype, fitting[-1], "off-chip"]
        yield _row(f"on_chip_vs_off_chip_{dtype}", [(on, off.seconds)])
        pairs = [at[dtype, n, "on-chip"] for n in fitting]
        yield _row(f"on_chip_vs_host_{dtype}", [(p, p.host_on_chip_s) for p in pairs])
        pairs = [at[dtype, n, "off-chip"] for n in layers]
        yield _row(f"off_chip_vs_host_{dtype}", [(p, p.host_off_chip_s) for p in pairs])
        mixed = [
            m
            for m in cliff_summary.mixed(p for p in points if p.dtype == dtype)
            if not m.past_the_cache  # else the cold half pushes the hot one out
        ]
        if mixed:
            parts = [(m.point, m.hot_s + m.cold_s) for m in mixed]
            yield _row(f"mixed_vs_hot_plus_cold_{dtype}", parts)
        predicted = [(p, p.predicted_s) for p in points if p.dtype == dtype and p.predicted_s]
        yield _row(f"measured_vs_predicted_{dtype}", predicted)


def _row(name: str, pairs: list[tuple[Point, float]]) -> dict[str, Any]:
    """Speed against a reference's, as the median over sizes."""
    ratios = [seconds / point.seconds for point, seconds in pairs]
    return {
        "name": f"residency_{name}",
        "value": float(np.median([p.bytes_per_s for p, _ in pairs])) / 1e9,
        "unit": "GB/s",
        "against": name.rpartition("_")[0].partition("_vs_")[2].replace("_", " "),
        "ratio": float(np.median(ratios)),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "weight_mb": [round(p.weight_bytes / 1e6, 2) for p, _ in pairs],
        "samples": sum(p.samples for p, _ in pairs),
        "disturbed_samples": sum(p.disturbed for p, _ in pairs),
    }
