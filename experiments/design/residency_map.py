"""The step's time over on-chip capacity and off-chip bandwidth, with the catalogue drawn on it.

Weights take what fits on chip, the rest comes from off chip ("fit"); everything else is the base
chip's. A line joins the chips on which a step takes equally long. Chips of the catalogue stand
where their own capacity and bandwidth are, whatever else they have.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

import emu
from emu.design import SystemGrid, sweep
from emu.report import Figure, Panel, Report, Series, Table
from experiments.deployment import Served
from experiments.design.stepped import check_steps, decode_grid, rows_of
from experiments.errors import ExperimentError
from experiments.results import Results, Row

NAME = "residency_map"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What to ask; the config file says what each field means."""

    served: Served
    chip: str
    chips: int
    tensor: int
    stack: str
    batch: int
    context: int
    capacity_gb: tuple[float, ...]  # on chip, of one chip
    bandwidth_tb_per_s: tuple[float, ...]  # off chip, of one chip
    on_chip_bandwidth_tb_per_s: float
    lines_ms: tuple[float, ...]
    executor: str  # threads, or ray

    def __post_init__(self) -> None:
        for name in ("capacity_gb", "bandwidth_tb_per_s", "lines_ms"):
            values = getattr(self, name)
            if len(values) < 2 or list(values) != sorted(set(values)) or values[0] <= 0:
                raise ExperimentError(f"{name} must be rising numbers above 0, not {values}")
        if self.on_chip_bandwidth_tb_per_s <= 0:
            raise ExperimentError("on_chip_bandwidth_tb_per_s must be above 0")
        check_steps((self.batch,), self.context)


def run(settings: Settings, results: Results) -> tuple[str, ...]:
    """A row for each capacity, with the times at all bandwidths."""
    chip = emu.chip(settings.chip)
    near, far = chip.memory("on-chip").name, chip.memory("off-chip").name
    base = emu.System(
        chip, chips=settings.chips, tensor=settings.tensor, stack=emu.stack(settings.stack)
    )
    works = decode_grid(settings.served, (settings.batch,), (settings.context,))
    per_s = np.array(settings.bandwidth_tb_per_s) * 1e12
    fixed = {
        name: value
        for name, value in dataclasses.asdict(settings).items()
        if name not in ("capacity_gb", "lines_ms", "executor")
    }

    def answer(one: Mapping[str, Any]) -> dict[str, Any]:
        grid = SystemGrid(
            system=base,
            numbers={
                f"chip/{near}/capacity_bytes": np.full(per_s.size, one["capacity_gb"] * 1e9),
                f"chip/{near}/bandwidth_bytes_per_s": np.full(
                    per_s.size, settings.on_chip_bandwidth_tb_per_s * 1e12
                ),
                f"chip/{far}/bandwidth_bytes_per_s": per_s,
            },
        )
        table = sweep(works, [grid], ["fit"], progress=False)
        assert isinstance(table, pd.DataFrame)
        return {
            "capacity_gb": one["capacity_gb"],
            "bandwidth_tb_per_s": list(settings.bandwidth_tb_per_s),
            "step_s": table["step_s"].tolist(),
        }

    asked = [{"capacity_gb": capacity, **fixed} for capacity in settings.capacity_gb]
    return rows_of(NAME, asked, settings, answer, results)


def report(settings: Settings, rows: Sequence[Row]) -> Report:
    """Lines of equal time, the catalogue's chips, and a table."""
    if refused := [row["measured"]["refused"] for row in rows if "refused" in row["measured"]]:
        raise ExperimentError(refused[0])
    times = np.array([row["measured"]["step_s"] for row in rows])
    capacity, per_s = np.array(settings.capacity_gb), np.array(settings.bandwidth_tb_per_s)
    lines = []
    for level in settings.lines_ms:
        points = [
            (c, _bandwidth_at(1e3 * t, per_s, level)) for c, t in zip(capacity, times, strict=True)
        ]
        known = [(c, b) for c, b in points if b is not None]
        if len(known) > 1:
            x, y = zip(*known, strict=True)
            lines.append(Series(label=f"{level:g} ms a token", x=tuple(x), y=tuple(y)))
    slow, fast = times.max(), times.min()
    chips, beyond = _chips(capacity, per_s)
    return Report(
        title=f"Where {settings.served.model} would have to fit",
        answer=(
            f"Chips: {settings.chips}, batch: {settings.batch}, {settings.context:,} tokens of "
            f"context: from {1e3 * slow:,.3g} ms a token at {capacity[0]:g} GB on chip and "
            f"{per_s[0]:g} TB/s off chip to {1e3 * fast:,.3g} ms at {capacity[-1]:g} GB and "
            f"{per_s[-1]:g} TB/s.",
            f"All else is {settings.chip}'s under {settings.stack}; on-chip memory at "
            f"{settings.on_chip_bandwidth_tb_per_s:g} TB/s (assumed).",
        ),
        figures=(
            Figure(
                name="residency_map",
                title=f"{settings.served.model}: time per token, by what one chip has",
                panels=(
                    Panel(
                        title=f"chips: {settings.chips}, batch: {settings.batch}",
                        x_label="on-chip memory of one chip (GB)",
                        y_label="off-chip bandwidth of one chip (TB/s)",
                        series=(*lines, *chips),
                        log_x=True,
                        log_y=True,
                    ),
                ),
                note="Lines: equal time per token. Points: the catalogue's chips, for where they "
                "are; their times are their own. Weights go on chip in their order: first the "
                "embedding, of which a step reads a row for each sequence, then layer after layer."
                + (f" Beyond the axes: {', '.join(beyond)}." if beyond else ""),
                scale=1.8,
            ),
        ),
        tables=(
            Table(
                title="Milliseconds a token",
                columns=("on chip (GB)", *(f"{b:g} TB/s" for b in per_s)),
                rows=tuple(
                    (f"{c:g}", *(f"{1e3 * t:,.4g}" for t in row))
                    for c, row in zip(capacity, times, strict=True)
                ),
            ),
        ),
    )


def _bandwidth_at(times_ms: Any, per_s: Any, level: float) -> float | None:
    """The least bandwidth at which a step takes so long; None: beyond what was asked for."""
    if not times_ms[-1] <= level <= times_ms[0]:
        return None
    logs = np.interp(-np.log(level), -np.log(times_ms), np.log(per_s))
    return float(np.exp(logs))


def _chips(capacity: Any, per_s: Any) -> tuple[list[Series], list[str]]:
    """The catalogue's chips by vendor, and the names of those beyond the axes."""
    series: list[Series] = []
    beyond: list[str] = []
    for vendor, places in _catalogue().items():
        inside = {
            (x, y): ", ".join(names)
            for (x, y), names in places.items()
            if capacity[0] <= x <= capacity[-1] and per_s[0] <= y <= per_s[-1]
        }
        beyond += [name for at, names in places.items() if at not in inside for name in names]
        if inside:
            series.append(
                Series(
                    label=vendor,
                    x=tuple(x for x, _ in inside),
                    y=tuple(y for _, y in inside),
                    style="points",
                    names=tuple(inside.values()),
                )
            )
    return series, beyond


def _catalogue() -> dict[str, dict[tuple[float, float], list[str]]]:
    """Of each vendor, chips with both kinds of memory by (GB on chip, TB/s off chip)."""
    found: dict[str, dict[tuple[float, float], list[str]]] = {}
    for name in emu.chips():
        chip = None if name == "host" else emu.chip(name)
        if chip is None or {m.placement for m in chip.memories} != {"on-chip", "off-chip"}:
            continue
        x = chip.memory("on-chip").capacity_bytes.value / 1e9
        y = chip.memory("off-chip").bandwidth_bytes_per_s.value / 1e12
        found.setdefault(chip.vendor, {}).setdefault((x, y), []).append(name)
    return dict(sorted(found.items()))
