"""Run one experiment: `python -m experiments.run --config=FILE --workdir=DIR`.

Finished measurements go to `DIR/results.jsonl` (or, of a bucket, `DIR/rows/`), and then what they
say to `DIR/report.html`, PNGs and the terminal. A run that was stopped or killed goes on where it
was when the same command is given again. Another config in the same workdir adds its rows; the
report is about the last config.
"""

import dataclasses
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

import emu.report
from emu.report import Report
from experiments import devices, facts, hosts, profiling, rows
from experiments.errors import ExperimentError
from experiments.launcher import launch
from experiments.results import Results, Row
from experiments.settings import freeze
from experiments.workdir import open_results

_CONFIG = config_flags.DEFINE_config_file("config", None, "the experiment's config file")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "folder for results and report; made if missing; gs:// and s3:// too"
)
_EXECUTOR = flags.DEFINE_enum(
    "executor", None, ["threads", "ray"], "of a design space: this process, or a Ray cluster"
)
_DEVICE = flags.DEFINE_enum("device", None, devices.KINDS, "refuse to run on anything else")
_PROFILE = flags.DEFINE_bool("profile", False, "leave a trace of jax.profiler beside the results")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What `run.py` needs of an experiment.

    `plan` makes of the settings what `run` takes, and refuses what this machine or model cannot do;
    `run` returns the keys of all that was asked for.
    """

    settings: type[Any]
    plan: Callable[[Any], Any]
    run: Callable[[Any, Results], tuple[str, ...]]
    report: Callable[[Any, Sequence[Row]], Report]
    several_hosts: bool  # whether they can run it together


# By their names: the module of each one's settings, `run` and perhaps `plan`, and that of its
# `report`. Only the module that a config asks for is loaded: all of them take two seconds more.
EXPERIMENTS = {
    "residency_cliff": ("cliff", "cliff"),
    "humaneval": ("decode_latency", "decode_latency"),
    "fleet": ("fleet", "fleet"),
    "traffic": ("traffic_served", "traffic_served"),
    "seconds_saved": ("seconds_saved", "seconds_saved"),
    "pareto_coding": ("design.pareto_coding", "design.pareto_report"),
    "residency_map": ("design.residency_map", "design.residency_map"),
    "what_would_it_take": ("design.what_would_it_take", "design.what_would_it_take"),
    "quickstart": ("quickstart", "quickstart"),
}


def load(name: str) -> Experiment:
    """One of EXPERIMENTS."""
    module, reports = (importlib.import_module(f"experiments.{m}") for m in EXPERIMENTS[name])
    return Experiment(
        settings=module.Settings,
        plan=getattr(module, "plan", lambda settings: settings),
        run=module.run,
        report=reports.report,
        several_hosts=name == "humaneval",
    )


def main() -> None:
    """Parse, run, save."""
    if _CONFIG.value is None or not _WORKDIR.value:
        missing = "--config=experiments/configs/quickstart.py" if _CONFIG.value is None else ""
        missing = f"{missing} {'' if _WORKDIR.value else '--workdir=DIR'}".strip()
        raise ExperimentError(f"something is missing: give {missing}")
    # In the order of what they take: nothing is measured, or waited for, that cannot be used.
    experiment, settings = chosen(_CONFIG.value, _EXECUTOR.value)
    results = open_results(_WORKDIR.value)
    hosts.join(repr((_CONFIG.value.experiment, settings)), several=experiment.several_hosts)
    with hosts.together():
        devices.check(_DEVICE.value)
        planned = experiment.plan(settings)
        if jax.process_count() > 1:
            results = hosts.SharedResults(results)
        with results:
            rows.check_machine(results)
            with profiling.into(results, _PROFILE.value) as traces:
                keys = experiment.run(planned, results)
            wanted = [results[key] for key in keys]
            report = experiment.report(settings, wanted)
            answer = (*report.answer, *facts.warning(wanted))
            report = dataclasses.replace(report, answer=answer, facts=facts.tables(wanted))
            written = [results.put(*file) for file in emu.report.files(report).items()] + traces
    hosts.say("\n" + emu.report.text(report))
    for path in (*written, results.path):
        hosts.say(str(path))


def chosen(config: ConfigDict, executor: str | None = None) -> tuple[Experiment, Any]:
    """The experiment that a config names, and its frozen settings, with another executor if given.

    Raises ExperimentError: no such experiment, or one that knows no executors; as `freeze`.
    """
    fields = config.copy_and_resolve_references()
    if "experiment" not in fields:
        raise ExperimentError(f"config.experiment is missing: there are {', '.join(EXPERIMENTS)}")
    name = fields.experiment
    if name not in EXPERIMENTS:
        raise ExperimentError(f"no experiment {name!r}: there are {', '.join(EXPERIMENTS)}")
    experiment = load(name)
    if executor is not None:
        if "executor" not in fields:
            raise ExperimentError(f"--executor: {name} is not spread over workers; leave it out")
        fields.executor = executor
    with fields.unlocked():
        del fields.experiment
    return experiment, freeze(experiment.settings, fields)


if __name__ == "__main__":
    launch(main, goes_on=True)
