import json
from pathlib import Path

import numpy as np
import pytest

from experiments.errors import ExperimentError
from experiments.workloads.traces import read_trace
from experiments.workloads.workload import workload

SYNTHETIC = Path("experiments/workloads/synthetic_code.csv")
HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def test_the_azure_format(tmp_path: Path) -> None:
    path = tmp_path / "code.csv"
    path.write_text(
        HEADER + "2023-11-16 18:17:03.9799600,4808,10\n" + "2023-11-16 18:17:05.4799600,110,27\n\n"
    )
    traffic = read_trace(path)
    np.testing.assert_allclose(traffic.start_s, [0, 1.5])
    assert traffic.append_tokens.tolist() == [4808, 110]
    assert traffic.output_tokens.tolist() == [10, 27]
    assert traffic.prefix_tokens.tolist() == [0, 0]


def test_the_mooncake_format(tmp_path: Path) -> None:
    path = tmp_path / "conversation.jsonl"
    lines = [
        {"timestamp": 3000, "input_length": 20, "output_length": 3, "hash_ids": [1]},
        {"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0]},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    traffic = read_trace(path)
    np.testing.assert_allclose(traffic.start_s, [0, 3])
    assert traffic.append_tokens.tolist() == [6758, 20]


def test_steps_of_agents(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    tokens = {"prefix_tokens": 5, "append_tokens": 6, "output_tokens": 7}
    lines = [
        {"session": "a", "arrival_s": 1.5, **tokens, "tool_s": 0.2},
        {"session": "b", "arrival_s": 0, **tokens},
        {"session": "a", "delay_s": 0.2, **tokens},
        {"session": "a", "delay_s": 80, "request": 1, **tokens},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    traffic = read_trace(path)
    assert traffic.start_s.tolist() == [1.5, 0]
    assert traffic.session.tolist() == [0, 0, 0, 1]
    assert traffic.request.tolist() == [0, 0, 1, 2]
    assert traffic.delay_s.tolist() == [0, 0.2, 80, 0]
    assert traffic.tool_s.tolist() == [0.2, 0, 0, 0]
    assert traffic.tokens.tolist() == [18] * 4


STEP = '{"session": "a", "prefix_tokens": 1, "append_tokens": 1, "output_tokens": 1'


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "when,what\n", "line 1: no column 'TIMESTAMP'"),
        ("a.csv", HEADER, "has no calls"),
        ("a.csv", HEADER + "2023-11-16 18:17:03,12,1\n2023-11-16,x,2\n", "line 3: ContextTokens"),
        ("a.csv", HEADER + "yesterday,12,1\n", "line 2: TIMESTAMP 'yesterday'"),
        ("a.csv", HEADER + "2023-11-16 18:17:03,12\n", "line 2: 2 of 3 columns"),
        ("a.csv", HEADER + "2023-11-16 18:17:03,12,0\n", "line 2: GeneratedTokens .* from 1"),
        ("a.csv", HEADER + "2023-11-16 18:17:03,nan,3\n", "line 2: ContextTokens"),
        ("a.jsonl", "", "has no lines"),
        ("a.jsonl", "{]\n", "line 1: no JSON"),
        ("a.jsonl", "[1]\n", "line 1: no JSON object"),
        ("a.jsonl", '\n{"timestamp": 1, "input_length": 2}', "line 2: no 'output_length'"),
        (
            "a.jsonl",
            '{"timestamp": -1, "input_length": 2, "output_length": 2}',
            "line 1: timestamp is a number from 0",
        ),
        ("a.jsonl", STEP + "}", "line 1: the first step of 'a' has no arrival_s"),
        (
            "a.jsonl",
            STEP + ', "arrival_s": 0, "request": 2}\n' + STEP + ', "request": 1}',
            "line 2: request goes back",
        ),
        ("a.jsonl", STEP.replace('"a"', "7") + "}", "line 1: session is a string"),
        ("a.txt", "x", "ends in neither"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ExperimentError, match=message):
        read_trace(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="cannot be read"):
        read_trace(tmp_path / "no.csv")


def test_the_synthetic_trace_has_the_published_percentiles() -> None:
    traffic = read_trace(SYNTHETIC)
    of = workload("code_completion")
    for name, tokens in (
        ("input_tokens", traffic.append_tokens),
        ("output_tokens", traffic.output_tokens),
    ):
        for point in of.quantile(name).points:
            if 0.05 <= point.share <= 0.95:
                found = float(np.quantile(tokens, point.share))
                assert found == pytest.approx(point.value, rel=0.05, abs=0.5), (name, point)
    rate = (len(traffic) - 1) / float(np.ptp(traffic.start_s))
    assert rate == pytest.approx(of.figure("calls_per_s"), rel=0.05)
