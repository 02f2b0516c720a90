import pytest

from experiments.errors import ExperimentError
from experiments.requests import Request, slots
from experiments.workloads import humaneval


def test_all_the_problems_are_there() -> None:
    tasks = humaneval.tasks()
    assert len(tasks) == 164
    assert [t.id for t in tasks[:2]] == ["HumanEval/0", "HumanEval/1"]
    assert tasks[0].prompt.startswith("from typing import List\n\n\ndef has_close_elements(")
    assert tasks[0].solution.startswith("    for idx, elem in enumerate(numbers):\n")
    assert humaneval.tasks(3) == tasks[:3]


@pytest.mark.parametrize("count", [-1, 165])
def test_there_are_no_other_counts(count: int) -> None:
    with pytest.raises(ExperimentError, match=f"164 problems, so tasks cannot be {count}"):
        humaneval.tasks(count)


def test_slots_serve_the_longest_request() -> None:
    short = Request(task="a", prompt=(1,) * 5, new_tokens=3)
    long = Request(task="b", prompt=(1,) * 100, new_tokens=40)
    assert slots([short, long], context=0, most=512) == 192  # 140, up to a multiple of 64
    assert slots([short], context=32, most=512) == 32
    with pytest.raises(ExperimentError, match=r"b needs 140 slots .* config\.context is 130"):
        slots([short, long], context=130, most=512)
    with pytest.raises(ExperimentError, match=r"config\.context is 513, .* at most 512: lower it"):
        slots([short], context=513, most=512)
    with pytest.raises(ExperimentError, match="140 tokens of context, and the model has 139"):
        slots([short, long], context=0, most=139)
