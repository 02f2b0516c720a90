"""The design space's configs, run as a person would, at a size that a test can wait for."""

import json

import pandas as pd
import pytest

import emu
from experiments.configs import pareto_coding, quickstart, residency_map, what_would_it_take
from experiments.design.pareto_coding import front
from experiments.errors import ExperimentError
from experiments.run import chosen
from experiments.workdir import open_results


def small(config, **fields):
    for name, value in fields.items():
        config[name] = value
    return config


def run(config, folder):
    """Runs a config; its report, and how many rows there are."""
    experiment, settings = chosen(config)
    with open_results(str(folder)) as results:
        keys = experiment.run(settings, results)
        return experiment.report(settings, [results[key] for key in keys]), len(results.rows)


def residency(**fields):
    config = residency_map.get_config()
    config.served.model = "llama-3.2-1b"
    return small(
        config,
        capacity_gb=(0.01, 4.0),
        bandwidth_tb_per_s=(1.0, 3.0, 10.0),
        lines_ms=(0.6, 1.0),
        **fields,
    )


def test_the_map_of_residency(tmp_path):
    report, rows = run(residency(), tmp_path)
    assert rows == 2
    near, far = (list(map(float, line[1:])) for line in reversed(report.tables[0].rows))
    assert far == sorted(far, reverse=True)
    assert len(set(near)) == 1  # all on chip: off-chip bandwidth does not matter
    assert near[0] < far[-1]
    (figure,) = report.figures
    named = {series.label: series.names for series in figure.panels[0].series if series.names}
    assert "b200, gb200, b300, gb300" in named["Nvidia"]  # which stand at one place
    shown = {name for names in named.values() for some in names for name in some.split(", ")}
    _, beyond = figure.note.rstrip(".").split("Beyond the axes: ")
    assert "wse-3" in beyond.split(", ")
    assert shown.isdisjoint(beyond.split(", "))
    both = {
        name
        for name in emu.chips()
        if name != "host" and len({m.placement for m in emu.chip(name).memories}) == 2
    }
    assert shown | set(beyond.split(", ")) == both
    _, again = run(residency(), tmp_path)
    assert again == 2  # nothing is predicted twice


def test_what_it_would_take(tmp_path):
    config = what_would_it_take.get_config()
    config.models.gpt_oss = {"model": "llama-3.2-1b", "weights": "fp8", "kv": "fp8"}
    config.free.capacity.low = 1e7
    config = small(config, chips=16, pipeline=2, context=500, tokens_per_s=(2000.0, 1e9))
    report, _ = run(config, tmp_path)
    met, missed = report.tables[0].rows
    assert float(met[1].replace(",", "")) == pytest.approx(2000, rel=0.01)
    assert [cell.split()[1] for cell in met[3:9]] == ["TB/s", "MB", "TB/s", "us", "us", "GB/s"]
    assert missed[1:3] == ("1,000,000,000", "-")
    assert "within these bounds a step takes" in report.answer[1]
    of = json.loads((tmp_path / "results.jsonl").read_text().splitlines()[0])["measured"]
    assert of["fill"]["sram"] == pytest.approx(1.0, abs=1e-3)


def test_fronts_over_batch_and_split(tmp_path):
    config = pareto_coding.get_config()
    del config.models.llama, config.models.qwen
    config.models.gpt_oss = {"model": "llama-3.2-1b", "weights": "fp8", "kv": "fp8"}
    config = small(config, chips=("h100", "wse-3", "mi325x"), batch=(1, 16), context=500)
    report, _ = run(config, tmp_path)
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    measured = [json.loads(line)["measured"] for line in lines]
    for of in measured:
        points = pd.DataFrame(of["front"])
        users, chips = points["tokens_per_s_per_user"], points["tokens_per_s_per_chip"]
        assert users.is_monotonic_decreasing
        assert chips.is_monotonic_increasing
        assert len(points) >= 2
        assert of["fastest"]["batch"] == of["most_per_chip"]["batch"] == [1, 16]
    assert "fastest for one user on wse-3" in report.answer[0]
    fitted, ideal = report.figures
    of_panel = {panel.y_label: [s.label for s in panel.series] for panel in fitted.panels}
    assert of_panel == {
        name: ["h100", "wse-3"]
        for name in ("tokens/s per chip", "tokens per joule", "tokens per USD")
    }
    # Nobody has published what an hour of an MI325X costs, nor what its software reaches.
    assert [[s.label for s in panel.series] for panel in ideal.panels] == [["mi325x"]] * 2 + [[]]
    h100 = measured[0]["front"]
    dearest = max(report.figures[0].panels[2].series[0].y)
    assert dearest == pytest.approx(3600 / 2.5 * max(h100["tokens_per_s_per_chip"]))


def test_experts_go_to_replicas_where_that_is_better(tmp_path):
    config = pareto_coding.get_config()
    del config.models.llama, config.models.qwen
    config.models.gpt_oss.model = "gpt-oss-20b"
    config = small(config, chips=("h100",), batch=(1, 256), context=500)
    report, _ = run(config, tmp_path)
    (line,) = (tmp_path / "results.jsonl").read_text().splitlines()
    splits = {words for split in json.loads(line)["measured"]["splits"] for words in split.split()}
    assert {"t8", "d8", "e8"} <= splits
    best = {row[1]: row[2] for row in report.tables[-1].rows}  # the fastest for a user, by batch
    assert best["1"] == "8 chips: t8"
    assert best["256"] == "8 chips: d8 e8"


WRONG = [
    (residency_map, {"batch": 0}, "batch must be rising numbers of at least 1"),
    (residency_map, {"lines_ms": (3.0, 2.0)}, "lines_ms must be rising numbers"),
    (what_would_it_take, {"tokens_per_s": (0.0,)}, "tokens_per_s must be above 0"),
    (what_would_it_take, {"pipeline": 3}, "the degrees must multiply to the chips"),
    (what_would_it_take, {"free.capacity.number": "chip/sram/size"}, "no number 'chip/sram/size'"),
    (what_would_it_take, {"free.capacity.low": 1e12}, "low and high that rise"),
    (what_would_it_take, {"free.capacity.power": 1e6}, "a power from -10 to 10"),
    (what_would_it_take, {"free.capacity.number": "chip/kernel_s"}, "is named twice"),
    (pareto_coding, {"chips": ("h1000",)}, "there is no chip 'h1000'; the nearest is 'h100'"),
    (pareto_coding, {"chips": ("h100", "h100")}, "each once"),
    (pareto_coding, {"stacks.h100": "vllm"}, "there is no stack 'vllm'"),
    (pareto_coding, {"batch": (2, 1)}, "batch must be rising"),
    (pareto_coding, {"context": -1}, "context must be at least 0"),
]


@pytest.mark.parametrize(("module", "fields", "message"), WRONG)
def test_a_wrong_config_is_refused_before_anything_is_written(module, fields, message):
    config = module.get_config()
    config.update_from_flattened_dict(fields)
    with pytest.raises((emu.EmuError, ExperimentError), match=message):
        chosen(config)


def test_an_executor_is_for_what_is_spread(tmp_path):
    _, settings = chosen(residency_map.get_config(), "ray")
    assert settings.executor == "ray"
    with pytest.raises(ExperimentError, match="--executor: quickstart is not spread"):
        chosen(quickstart.get_config(), "ray")
    with pytest.raises(emu.EmuError, match="executor is 'threads' or 'ray', not 'slurm'"):
        run(residency(executor="slurm"), tmp_path)


def test_a_front_keeps_what_nothing_beats():
    table = pd.DataFrame({"a": [1, 2, 3, 3, 2], "b": [5, 5, 1, 2, 3]})
    kept = front(table, "a", "b")
    assert kept.values.tolist() == [[3, 2], [2, 5]]
