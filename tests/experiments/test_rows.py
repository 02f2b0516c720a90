from pathlib import Path
from typing import Any

import pytest

from experiments import rows
from experiments.results import PARTS, ResultsFile
from models.checkpoint import open_checkpoint

OLD = {"weights": "aaaa", "jax": "0.10.2"}


def finished(key: str) -> dict[str, Any]:
    return {"key": key, "experiment": "x", "finished": "now", **{part: {"a": 1} for part in PARTS}}


@pytest.fixture
def results(tmp_path: Path) -> Any:
    with ResultsFile(tmp_path) as file:
        for task in ("one", "two"):
            file.append(finished(rows.key("x", OLD, task=task)))
        file.append(finished("x task=three"))  # of a version that did not record it
        yield file


def test_a_key_says_what_was_asked_and_of_what() -> None:
    assert rows.key("x", OLD, model="a b", task=1) == "x model=a b task=1 @ weights=aaaa jax=0.10.2"


def test_rows_of_other_weights_are_not_taken_for_done(results: ResultsFile) -> None:
    now = {"weights": "bbbb", "jax": "0.10.2"}
    keys = [rows.key("x", now, task=task) for task in ("one", "two", "four")]
    assert not any(key in results for key in keys)
    assert rows.redone(results, keys) == (
        "2 finished rows do not count and are measured again: weights aaaa then, bbbb now"
    )


def test_every_reason_is_given(results: ResultsFile) -> None:
    now = {"weights": "aaaa", "jax": "0.11.0"}
    keys = [rows.key("x", now, task=task) for task in ("one", "three")]
    assert rows.redone(results, keys) == (
        "2 finished rows do not count and are measured again: jax 0.10.2 then, 0.11.0 now; "
        "weights not recorded then, aaaa now; jax not recorded then, 0.11.0 now"
    )


def test_new_rows_are_nothing_to_tell_of(results: ResultsFile) -> None:
    assert rows.redone(results, [rows.key("x", OLD, task="four")]) is None
    assert rows.redone(results, []) is None


def test_the_origin_is_of_the_weights_and_of_what_computes() -> None:
    found = rows.origin(open_checkpoint("tests/golden/tiny_llama"))
    assert list(found) == ["weights", "jax", "jaxlib", "products"]
    assert all(value and " " not in value for value in found.values())
    other = rows.origin(open_checkpoint("tests/golden/tiny_qwen2"))
    assert other["weights"] != found["weights"]
