"""Thousands of damaged GGUF files are refused, or what they load to is sound. About 20 seconds."""

import collections
import sys

import confined
import numpy as np
import pytest
import tiny_gguf
from damage import damaged, layout_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the limits are Linux's"),
]


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """{path: what was done to it}: files of two architectures, all damaged in another way."""
    folder = tmp_path_factory.mktemp("damaged")
    named = {}
    for architecture in ("llama", "qwen3"):
        weights = tiny_gguf.tensors(architecture)
        if architecture == "llama":  # one whose RoPE is scaled, 32 times
            weights["rope_freqs.weight"] = np.array([1, 1, 32, 32], np.float32)
        packed = {}
        for name, kind in (("ffn_up", "Q8_0"), ("ffn_gate", "Q4_1")):
            key = f"blk.0.{name}.weight"
            packed[key] = (kind, tiny_gguf.packed(weights[key], kind))
        file = folder / f"{architecture}.gguf"
        path = tiny_gguf.write(file, architecture, weights=weights, packed=packed)
        data = path.read_bytes()
        for number, (done, content) in enumerate(damaged(data)):
            path = folder / f"{architecture}-{number}.gguf"
            path.write_bytes(content)
            named[str(path)] = f"{architecture}: {done}"
        named[str(folder / f"{architecture}.gguf")] = f"{architecture}: nothing"
    return named


def test_damaged_files_are_refused_or_load_to_something_sound(cases):
    found = confined.outcomes("damaged_targets:load", cases)
    assert found.keys() == cases.keys()
    wrong = {
        cases[path]: outcome
        for path, outcome in found.items()
        if outcome != "loaded" and not outcome.startswith("refused: ")
    }
    assert not wrong
    assert not [outcome for outcome in found.values() if "\n" in outcome]
    whole = [path for path, done in cases.items() if done.endswith(": nothing")]
    assert [found.pop(path) for path in whole] == ["loaded", "loaded"]
    assert len(found) >= 4000
    # Another letter in a token's text, or a longer context, is no damage that anyone could see.
    kinds = collections.Counter(outcome.split(":")[0] for outcome in found.values())
    assert kinds["refused"] > 0.9 * len(found), kinds


def test_every_field_of_the_header_is_damaged(cases):
    done = "\n".join(cases.values())
    path = next(path for path, done in cases.items() if done == "llama: nothing")
    with open(path, "rb") as file:
        fields = layout_of(file.read()).fields
    assert len(fields) > 200
    assert not [field for field in fields if field.size and f"llama: {field.name} := " not in done]
    for kind in ("cut at", "twice", "left out", "nan at", "random bytes"):
        assert kind in done


@pytest.mark.parametrize(
    ("target", "outcome"),
    [("eat_memory", "MemoryError"), ("hang", "hung for"), ("crash", "crashed with status -6")],
)
def test_the_confinement_notices(target, outcome):
    found = confined.outcomes(f"wrong_targets:{target}", ["good", "bad", "also good"], limit_s=3.0)
    assert found.pop("bad").startswith(outcome)
    assert found == {"good": "fine", "also good": "fine"}
