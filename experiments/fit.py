"""Fit the numbers of emu/serving/fitted.toml to published cases: python -m experiments.fit

    python -m experiments.fit --cases=experiments/measured/decode_cases.csv
    python -m experiments.fit --leave_out=experiments/measured/folds.toml --out=held_out.csv

Minimises the squared logarithmic errors of all rows that can be done, those of tier 3 counting for
a fifth, plus each number's distance from its prior in units of the prior's spread: few, physical
numbers that data must pull away from what is plausible. Each is one parameter, whoever shares it.
With --leave_out each fold is predicted by numbers fitted without it, and what eight of ten of these
predictions are off by at most becomes each stack's `log_error`.
"""

import csv
import dataclasses
import functools
import math
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import flags

import emu
from emu.calibrate import Parameter, fit
from emu.fitted import Fitted, fitted, for_chip, for_stack
from experiments import cases
from experiments.case_errors import summary
from experiments.errors import ExperimentError
from experiments.launcher import launch
from experiments.progress import progress
from models.errors import ModelError

CASES = flags.DEFINE_string("cases", "experiments/measured/decode_cases.csv", "what to fit to")
FOLDS = flags.DEFINE_string("leave_out", None, "folds to leave out one by one; writes no numbers")
OUT = flags.DEFINE_string("out", None, "a table of the folds' predictions")

_FILE = Path("emu/serving/fitted.toml")
_NOISY = 0.2  # what a row of tier 3 counts for
_ENOUGH = 5  # rows that say something of a stack by themselves
_OFF = 0.05  # logarithmic error of a row that counts as much as a number one spread from its prior


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clocked:
    """A case whose system takes other numbers."""

    placed: cases.Placed
    weight: float

    def seconds(self, numbers: Sequence[Fitted]) -> float:
        """Between two tokens, with these numbers in place of the committed ones."""
        old = self.placed.system
        chip = for_chip(old.chip, tuple(numbers))
        stack = dataclasses.replace(old.software, **for_stack(old.software.name, tuple(numbers)))
        return self.placed.seconds(dataclasses.replace(old, chip=chip, stack=stack))

    def has(self, one: Fitted) -> bool:
        """Whether its system has this number."""
        system = self.placed.system
        return system.chip.name in one.chips or system.software.name in one.stacks


def clocked(path: str) -> list[Clocked]:
    """The rows that can be done, traced and placed."""
    found, _ = cases.read_cases(path)
    done = []
    with progress(len(found), "placing", "row") as bar:
        for case in found:
            try:
                weight = (1.0 if case.tier < 3 else _NOISY) / _OFF
                done.append(Clocked(placed=cases.place(case), weight=weight))
            except (emu.EmuError, ExperimentError, ModelError):
                pass  # experiments.validate says why
            bar.update()
    return done


def solve(
    rows: Sequence[Clocked], numbers: Sequence[Fitted], *, goes_on: bool = False
) -> list[Fitted]:
    """The numbers that fit these rows best; those that no row has stay at their priors.

    goes_on: from the values that they have, in a few steps, instead of from the priors.
    """
    free = [one for one in numbers if one.number.kind == "fitted"]
    fixed = [one for one in numbers if one.number.kind != "fitted"]

    def with_values(values: Sequence[float]) -> list[Fitted]:
        new = (
            dataclasses.replace(
                one, number=dataclasses.replace(one.number, value=v, low=None, high=None)
            )
            for one, v in zip(free, values, strict=True)
        )
        return [*new, *fixed]

    result = fit(
        [
            Parameter(
                name=one.name,
                prior=one.prior,
                spread=one.spread,
                most=1.0 if one.field.endswith("_share") else None,
            )
            for one in free
        ],
        seconds=[functools.partial(_seconds, row, with_values) for row in rows],
        measured_s=[row.placed.case.measured_s for row in rows],
        weights=[row.weight for row in rows],
        touches=[[row.has(one) for one in free] for row in rows],
        start=[_start(one, rows) for one in free] if goes_on else None,
        steps=6 if goes_on else 20,
    )
    return [
        dataclasses.replace(
            one, number=dataclasses.replace(one.number, value=v, low=low, high=high)
        )
        for one, v, low, high in zip(free, result.values, result.low, result.high, strict=True)
    ] + fixed


def _seconds(
    row: Clocked,
    with_values: Callable[[Sequence[float]], list[Fitted]],
    values: Sequence[float],
) -> float:
    return row.seconds(with_values(values))


def _start(one: Fitted, rows: Sequence[Clocked]) -> float:
    """Its value; its prior where no row is left that has it."""
    return float(one.number.value) if any(row.has(one) for row in rows) else one.prior


def _log_errors(table: Sequence[dict[str, str]]) -> list[Fitted]:
    """A `log_error` for each stack: of its own rows where there are five, else of all stacks'.

    Rows of tier 3 count only for stacks that have no others.
    """
    off: dict[str, list[float]] = {}
    for row in table:
        off.setdefault(row["stack"], [])
    for row in table:
        only_noisy = all(r["tier"] == "3" for r in table if r["stack"] == row["stack"])
        if row["tier"] != "3" or only_noisy:
            off[row["stack"]].append(abs(math.log1p(float(row["error"]))))
    together = [
        e for row in table if row["tier"] != "3" for e in [abs(math.log1p(float(row["error"])))]
    ]
    return [
        Fitted(
            name=f"{stack}: left out",
            field="log_error",
            stacks=(stack,),
            prior=1.0,
            spread=1.0,
            number=emu.Sourced(
                value=float(np.quantile(own if len(own) >= _ENOUGH else [*own, *together], 0.8)),
                source=f"{len(own)} cases left out of the fit"
                + ("" if len(own) >= _ENOUGH else ", and those of all stacks"),
                kind="measured",
            ),
        )
        for stack, own in off.items()
    ]


def write(path: Path, numbers: Sequence[Fitted]) -> None:
    """As `emu.fitted.read` reads them."""
    lines = ["# Made by python -m experiments.fit, but for names, owners and priors."]
    for one in numbers:
        of = one.number
        owners = ", ".join(f'"{name}"' for name in (one.chips or one.stacks))
        lines += ["", "[[number]]", f'name = "{one.name}"', f'field = "{one.field}"']
        lines += [f"{'chips' if one.chips else 'stacks'} = [{owners}]", f"value = {of.value:.4g}"]
        if of.low is not None:
            lines += [f"low = {of.low:.4g}", f"high = {of.high:.4g}"]
        if of.kind == "fitted":
            lines += [f"prior = {one.prior:g}", f"spread = {one.spread:g}"]
        lines += [f'kind = "{of.kind}"', f'source = "{of.source}"']
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """See the module."""
    rows = clocked(CASES.value)
    if FOLDS.value is None:
        numbers = solve(rows, fitted())
        write(_FILE, numbers)
        for one in numbers:
            print(f"{one.name:<28} {one.number.value:10.4g}  prior {one.prior:g}")
        return
    with Path(FOLDS.value).open("rb") as file:
        folds = tomllib.load(file)["fold"]
    table = []
    with progress(len(folds), "leaving out", "fold") as bar:
        for fold in folds:
            left_out = set(fold["cases"])
            rest = [row for row in rows if row.placed.case.id not in left_out]
            numbers = solve(rest, fitted(), goes_on=True)
            for row in rows:
                case = row.placed.case
                if case.id in left_out:
                    seconds = row.seconds(numbers)
                    table.append(
                        case.row
                        | {
                            "predicted_ms": f"{seconds * 1e3:.4f}",
                            "error": f"{seconds / case.measured_s - 1:.4f}",
                            "fold": fold["name"],
                            "apart": str(bool(fold.get("apart"))).lower(),
                            "why": "",
                        }
                    )
            bar.update()
    if OUT.value:
        with Path(OUT.value).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(table[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(table)
    write(_FILE, [*(one for one in fitted() if one.field != "log_error"), *_log_errors(table)])
    apart = [row for row in table if row["apart"] == "true"]
    print("\n".join(summary([row for row in table if row["apart"] != "true"])))
    if apart:
        print("apart: nothing of their chip and stack is left without them")
        print("\n".join(summary(apart)))


if __name__ == "__main__":
    launch(main)
