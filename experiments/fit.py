"""Fit the numbers of emu/serving/fitted.toml to published cases: python -m experiments.fit

    python -m experiments.fit --cases=experiments/measured/decode_cases.csv
    python -m experiments.fit --leave_out=experiments/measured/folds.toml --out=held_out.csv

Minimises the squared logarithmic errors of all rows that can be done, those of tier 3 counting for
a fifth, plus each number's distance from its prior in units of the prior's spread: few, physical
numbers that data must pull away from what is plausible. Each is one parameter, whoever shares it.
With --leave_out each fold is predicted by numbers fitted without it (`experiments.left_out`), and
what eight of ten of these predictions are off by at most becomes each stack's `log_error`, and how
much of their ranges would have held eight of ten all stacks' `range_share`.
"""

import dataclasses
import functools
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

import emu
from emu.calibrate import Measurement, Parameter, fit
from emu.fitted import Fitted, fitted, for_chip, for_stack
from experiments import cases, left_out
from experiments.case_table import write_table
from experiments.errors import ExperimentError
from experiments.launcher import launch
from experiments.progress import progress
from models.errors import ModelError

CASES = flags.DEFINE_string(
    "cases", "experiments/measured/decode_cases.csv", "what to fit to", allow_override=True
)
FOLDS = flags.DEFINE_string("leave_out", None, "a file of folds to leave out one by one, too")
OUT = flags.DEFINE_string("out", None, "a table of the folds' predictions", allow_override=True)

_FILE = Path("emu/serving/fitted.toml")
_NOISY = 0.1  # what a row of tier 3 counts for
_OFF = 0.05  # logarithmic error of a row that counts as much as a number one spread from its prior


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Clocked:
    """A case whose system takes other numbers."""

    placed: cases.Placed
    log_error: float

    def with_numbers(self, numbers: Sequence[Fitted]) -> emu.System:
        """Its system, with these numbers in place of the committed ones."""
        old = self.placed.system
        chip = for_chip(old.chip, tuple(numbers))
        stack = dataclasses.replace(old.software, **for_stack(old.software.name, tuple(numbers)))
        return dataclasses.replace(old, chip=chip, stack=stack)

    def seconds(self, numbers: Sequence[Fitted]) -> float:
        """Between two tokens, with these numbers in place of the committed ones."""
        return self.placed.seconds(self.with_numbers(numbers))

    @functools.cached_property
    def measurement(self) -> Measurement:
        """For `emu.calibrate`; its parameters are the numbers that are `free`."""

        def term(one: cases.Term) -> Callable[[Any], Any]:
            return lambda values: one.seconds(self.with_numbers(with_values(values)))

        case = self.placed.case
        return Measurement(
            seconds=[(one.times, term(one)) for one in self.placed.terms],
            measured_s=case.measured_s,
            log_error=self.log_error,
        )

    def has(self, one: Fitted) -> bool:
        """Whether its system has this number."""
        system = self.placed.system
        return system.chip.name in one.chips or system.software.name in one.stacks


def clocked(path: str) -> list[Clocked]:
    """The rows that can be done, traced and placed."""
    found = cases.read_cases(path)
    done = []
    with progress(len(found), "placing", "row") as bar:
        for case in found:
            try:
                log_error = _OFF if case.tier < 3 else _OFF / _NOISY
                done.append(Clocked(placed=cases.place(case), log_error=log_error))
            except (emu.EmuError, ExperimentError, ModelError):
                pass  # experiments.validate says why
            bar.update()
    return done


@functools.cache
def free() -> tuple[Fitted, ...]:
    """The numbers that are fitted, as committed; their values are the parameters, in this order."""
    return tuple(one for one in fitted() if one.number.kind == "fitted")


def with_values(values: Sequence[Any]) -> list[Fitted]:
    """The free numbers with these values, which may be traced."""
    return [
        dataclasses.replace(
            one, number=dataclasses.replace(one.number, value=value, low=None, high=None)
        )
        for one, value in zip(free(), values, strict=True)
    ]


def solve(rows: Sequence[Clocked], start: Sequence[Fitted] | None = None) -> list[Fitted]:
    """The free numbers that fit these rows best; those that no row has stay at their priors.

    start: numbers to begin from instead of the priors.
    """
    result = fit(
        [
            Parameter(
                name=one.name,
                prior=one.prior,
                spread=one.spread,
                most=1.0 if one.field.endswith("_share") else None,
            )
            for one in free()
        ],
        [row.measurement for row in rows],
        start=None if start is None else [_start(one, rows) for one in start],
    )
    return [
        dataclasses.replace(
            one, number=dataclasses.replace(one.number, value=value, low=low, high=high)
        )
        for one, value, low, high in zip(
            free(), result.values, result.low, result.high, strict=True
        )
    ]


def _start(one: Fitted, rows: Sequence[Clocked]) -> float:
    """Its value; its prior where no row is left that has it."""
    return float(one.number.value) if any(row.has(one) for row in rows) else one.prior


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
    numbers = solve(rows)
    others = [one for one in fitted() if one not in free()]
    if FOLDS.value is not None:
        table = without_folds(rows, numbers, FOLDS.value)
        kept = [one for one in others if one.field not in ("log_error", "range_share")]
        others = [*kept, *log_errors(table), range_share(table)]
        if OUT.value:
            write_table(Path(OUT.value), left_out.as_rows(table))
        print("\n".join(left_out.report(table)))
    write(_FILE, [*numbers, *others])
    for one in numbers:
        print(f"{one.name:<28} {one.number.value:10.4g}  prior {one.prior:g}")


def without_folds(
    rows: Sequence[Clocked], numbers: Sequence[Fitted], path: str
) -> list[left_out.Prediction]:
    """The cases of each fold of a file, predicted by numbers fitted without them."""
    with Path(path).open("rb") as file:
        folds = [left_out.Fold(**fold) for fold in tomllib.load(file)["fold"]]
    table = []
    with progress(len(folds), "leaving out", "fold") as bar:
        for fold in folds:
            rest = [row for row in rows if row.placed.case.id not in fold.cases]
            found = solve(rest, numbers)
            for row in rows:
                if row.placed.case.id in fold.cases:
                    system = row.with_numbers(found)
                    table.append(left_out.Prediction.of(row.placed, system, fold))
            bar.update()
    return table


def log_errors(table: Sequence[left_out.Prediction]) -> list[Fitted]:
    """A `log_error` for each stack."""
    found = []
    for stack in dict.fromkeys(one.case.row["stack"] for one in table):
        own = left_out.own(table, stack)
        found.append(
            Fitted(
                name=f"{stack}: left out",
                field="log_error",
                stacks=(stack,),
                prior=1.0,
                spread=1.0,
                number=emu.Sourced(
                    value=left_out.log_error(table, stack),
                    source=f"{len(own)} cases left out of the fit"
                    + ("" if len(own) >= left_out.ENOUGH else ", and those of all stacks"),
                    kind="measured",
                ),
            )
        )
    return found


def range_share(table: Sequence[left_out.Prediction]) -> Fitted:
    """One for all stacks."""
    return Fitted(
        name="share of a range",
        field="range_share",
        stacks=tuple(dict.fromkeys(one.case.row["stack"] for one in table)),
        prior=1.0,
        spread=1.0,
        number=emu.Sourced(
            value=left_out.range_share(table),
            source=f"{len(table)} cases left out of the fit",
            kind="measured",
        ),
    )


if __name__ == "__main__":
    launch(main)
