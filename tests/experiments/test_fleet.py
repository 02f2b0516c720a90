"""The fleet and the sessions end to end, on a small model."""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

import emu
import emu.report
from experiments import facts, fleet, predicted_rows, seconds_saved, traffic_served
from experiments.costs import Costs
from experiments.deployment import Hardware, Served
from experiments.errors import ExperimentError
from experiments.results import ResultsFile
from experiments.serving.levels import Level
from experiments.serving.policy import Policy
from experiments.session_time import Service
from experiments.step_times import Axes, step_times

H100 = Hardware(chip="h100", stack="vllm-0.19", chips=1, price_usd_per_chip_hour=2.0)
GROQ = Hardware(chip="groq-lpu-v1", stack="groqcloud", chips=32, tensor=8, pipeline=4)
MODEL = Served(model="llama-3.2-1b")
WINDOW = 24_000
# What tables are worth is tested of the fine ones (test_step_times.py).
COARSE = Axes(
    sequences=(1, 4, 16), contexts=(0.001, 0.25, 1.0), tokens=(1, 64, 512), prefixes=(0.0, 0.98)
)
SETTINGS = fleet.Settings(
    model=MODEL,
    systems={"h100": H100, "groq": GROQ},
    fast=("groq",),
    unproven=(),
    classes={
        "chat": fleet.Class(
            workload="chat",
            sessions_per_s=400.0,
            level=Level(ttft_p99_s=1.0, tokens_per_s=50.0),
            simulated=100,
        ),
        "software": fleet.Class(
            workload="software",
            sessions_per_s=3.0,
            level=Level(ttft_p99_s=3.0),
            simulated=40,
        ),
    },
    window_tokens=WINDOW,
    seed=0,
    service=Service(),
    policy=Policy(),
    costs=Costs(),
    assumed={"software": {"gap_s": 0.1}},
)


@pytest.fixture(scope="module", autouse=True)
def coarse_tables() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predicted_rows, "step_times", functools.partial(step_times, axes=COARSE))
        yield


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fleet")


def test_a_fleet_is_planned_and_reported_and_goes_on(workdir: Path) -> None:
    with ResultsFile(workdir) as results:
        keys = fleet.run(SETTINGS, results)
        rows = [results[key] for key in keys]
        made = len(results.rows)
        report = fleet.report(SETTINGS, rows)
    # Step times, pairs at three ends of them, and what assumptions do to each class.
    assert made == len(keys) == 2 + 4 * 3 + 2
    with ResultsFile(workdir) as results:  # nothing is done twice, and the report is the same
        assert fleet.run(SETTINGS, results) == keys
        assert len(results.rows) == made
        assert fleet.report(SETTINGS, [results[key] for key in keys]) == report
    found = {row["experiment"]: row for row in rows}
    assert set(found) == {"step_times", "capacity", "effects"}
    for row in rows[2:-2]:
        assert row["measured"]["sessions_per_s"] > 0
        assert not row["measured"]["missed"]
    per_s = [row["measured"]["sessions_per_s"] for row in rows[2:-2]]
    for low, high in zip(per_s[1::3], per_s[2::3], strict=True):  # of typical, low, high
        assert low > high
    for row in rows[-2:]:
        assert row["measured"]["system"] == "h100"
        assert row["measured"]["request_s"]["base"] > 0
    titles = {table.title: table for table in report.tables}
    felt = next(t for title, t in titles.items() if "mean request of software" in title)
    assert {"assumed.software.gap_s", "service.network_s"} <= {row[0] for row in felt.rows}
    assert emu.report.files(report).keys() == {"share.png", "report.html"}
    assert facts.tables(rows)
    assert "10% of the model calls" in report.answer[0]
    assert "All machines, fast ones too, are as full as the promises allow" in report.answer[1]
    for row in titles["What one instance takes on, keeping what is promised"].rows:
        loaded, alone = (float(row[at].replace(",", "")) for at in (5, 6))
        assert loaded < alone
    for series in report.figures[0].panels[0].series:
        assert all(a <= y <= b for a, y, b in zip(series.low, series.y, series.high, strict=True))
        assert max(b / a for a, b in zip(series.low, series.high, strict=True)) > 1.01


def test_simulations_made_again_are_the_same(workdir: Path, tmp_path: Path) -> None:
    with ResultsFile(workdir) as results:
        keys = fleet.run(SETTINGS, results)
        lines = workdir.joinpath("results.jsonl").read_text().splitlines(keepends=True)
        before = [results[key]["measured"] for key in keys]
    # As a kill in the middle of the fourth row leaves it.
    tmp_path.joinpath("results.jsonl").write_text("".join(lines[:3]) + lines[3][:200])
    with ResultsFile(tmp_path) as results:
        assert fleet.run(SETTINGS, results) == keys
        assert [results[key]["measured"] for key in keys] == before


def test_a_promise_that_nobody_can_keep_names_the_floors(workdir: Path) -> None:
    level = Level(ttft_p99_s=0.001)
    chat = dataclasses.replace(SETTINGS.classes["chat"], level=level, simulated=20)
    asked = dataclasses.replace(SETTINGS, classes={"chat": chat})
    with (
        ResultsFile(workdir) as results,
        pytest.raises(
            ExperimentError,
            match=r"class chat: no system can serve it.*h100: TTFT p99 0\.\d+ s, asked 0.001 s",
        ),
    ):
        fleet.run(asked, results)


def test_seconds_saved_end_to_end(workdir: Path) -> None:
    settings = seconds_saved.Settings(
        workload="agentic",
        models={"small": MODEL},
        systems={
            "h100": H100,
            "groq": GROQ,
            "tiny": Hardware(chip="groq-lpu-v1", stack="groqcloud", chips=1, tensor=1),
        },
        baseline="h100",
        window_tokens=WINDOW,
        sessions=30,
        seed=0,
        service=Service(),
        assumed={"same_tools": 0.9},
    )
    with ResultsFile(workdir) as results:
        keys = seconds_saved.run(settings, results)
        report = seconds_saved.report(settings, [results[key] for key in keys])
    assert set(emu.report.files(report)) == {
        "waterfall_typical.png",
        "waterfall_mean.png",
        "report.html",
    }
    tables = {table.title: table for table in report.tables}
    (refused,) = tables["What cannot be served"].rows
    assert refused[:2] == ("llama-3.2-1b", "tiny")
    assert "would do" in refused[2]
    (assumptions,) = (t for title, t in tables.items() if title.startswith("Assumptions"))
    names = {row[0] for row in assumptions.rows}
    assert {"assumed.same_tools", "service.network_s", "service.near_s"} <= names
    assert "This is a model" in report.answer[-1]
    wrong = dataclasses.replace(settings, baseline="tiny")
    with (
        ResultsFile(workdir) as results,
        pytest.raises(ExperimentError, match="on the baseline tiny: sram"),
    ):
        seconds_saved.report(wrong, [results[key] for key in seconds_saved.run(wrong, results)])


def test_drafts_shorten_decoding_alone_and_the_report_says_that_they_are_there(
    workdir: Path,
) -> None:
    plain = seconds_saved.Settings(
        workload="agentic",
        models={"small": MODEL},
        systems={"h100": H100},
        baseline="h100",
        window_tokens=WINDOW,
        sessions=10,
        seed=0,
        service=Service(),
        assumed={"same_tools": 0.9},
    )
    drafting = dataclasses.replace(plain, service=Service(drafted=3, kept_per_step=2.82))
    rows, said = [], []
    with ResultsFile(workdir) as results:
        for settings in (plain, drafting):
            keys = seconds_saved.run(settings, results)
            report = seconds_saved.report(settings, [results[key] for key in keys])
            table = report.tables[0]
            rows.append(dict(zip(table.columns, table.rows[1], strict=True)))
            said.append(" ".join(report.answer))
    without, drafted = rows
    assert drafted["TTFT p50"] == without["TTFT p50"]
    after, before = (float(row["tokens/s"].replace(",", "")) for row in (drafted, without))
    # A step of four tokens takes no less than one of one token; cells are rounded to 3 digits.
    assert 1 < after / before <= 2.82 / 1.15 * 1.01
    assert "drafts" not in said[0]
    assert "drafts 3 tokens a step, 0.05 of a step each, and keeps 2.82" in said[1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fast": ("tpu",)}, "'tpu' is none of the systems h100, groq"),
        ({"fast": ("h100", "groq")}, "leave at least one system"),
        ({"classes": {}}, "must not be empty"),
    ],
)
def test_settings_are_checked(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        dataclasses.replace(SETTINGS, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"systems": {"groq": GROQ, "h100": dataclasses.replace(H100, chips=8, tensor=3)}},
            "no split of h100 has --chips=8, --tensor=3",
        ),
        ({"model": Served(model="llama-3.2-1b", weights="fp3")}, "no format 'fp3'"),
        ({"window_tokens": 200_000}, "window_tokens: llama-3.2-1b takes sequences of 131,072"),
    ],
)
def test_what_cannot_be_asked_is_told_before_anything_is_predicted(
    fields: dict[str, object], message: str, tmp_path: Path
) -> None:
    asked = dataclasses.replace(SETTINGS, **fields)  # type: ignore[arg-type]
    with ResultsFile(tmp_path) as results:
        with pytest.raises((ExperimentError, emu.EmuError), match=message):
            fleet.run(asked, results)
        assert not results.rows


def test_a_trace_is_replayed_on_each_system(workdir: Path) -> None:
    settings = traffic_served.Settings(
        model=MODEL,
        systems={"h100": H100, "groq": GROQ},
        workload="",
        trace="experiments/workloads/synthetic_code.csv",
        sessions=0,
        sessions_per_s=1.0,
        window_tokens=SETTINGS.window_tokens,
        seed=0,
        service=Service(),
        policy=Policy(),
        baseline="h100",
        assumed={},
    )
    with ResultsFile(workdir) as results:
        keys = traffic_served.run(settings, results)
        report = traffic_served.report(settings, [results[key] for key in keys])
        found = [results[key]["measured"]["met"] for key in keys[2:-1]]
        assert traffic_served.run(settings, results) == keys
    assert [one["calls"] for one in found] == [1000] * 6  # two systems at three ends of step times
    assert all(one["places"]["new"] == 1000 for one in found)
    assert "1,000 calls" in report.tables[0].title
    met = {row[0]: row[5] for row in report.tables[0].rows}  # median requests with their ranges
    assert report.answer[0] == (
        f"Half of the requests wait for the model for at most {met['groq']} s on groq, where that "
        f"is least, and {met['h100']} s on h100."
    )
    with pytest.raises(ExperimentError, match="cannot be read"):
        traffic_served.traffic(dataclasses.replace(settings, trace="no.csv"))
