"""What every row says besides the measurement: what was asked, of which machine, by which code."""

import datetime
from typing import Any

from experiments import provenance
from experiments.errors import ExperimentError
from experiments.results import ResultsFile, Row
from experiments.settings import as_dict


def key(experiment: str, **fields: Any) -> str:
    """The name of one measurement: the experiment and every field that decides its outcome."""
    return " ".join([experiment, *(f"{name}={value}" for name, value in fields.items())])


def row(key: str, experiment: str, settings: Any, measured: dict[str, Any]) -> Row:
    """One finished measurement, ready to append."""
    return {
        "key": key,
        "experiment": experiment,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "config": as_dict(settings),
        "machine": provenance.machine(),
        "versions": provenance.versions(),
        "git": provenance.git(),
        "measured": measured,
    }


def check_machine(results: ResultsFile) -> None:
    """Refuse to add rows of this machine to those of another."""
    for old in results.rows:
        if not provenance.same_machine(old["machine"], provenance.machine()):
            raise ExperimentError(
                f"{results.path} holds results of another machine or set-up "
                f"({', '.join(f'{name} {value}' for name, value in old['machine'].items())}): "
                "use another workdir"
            )
