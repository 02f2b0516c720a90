"""Tokenisers and chat templates against other programs (golden/golden_tokens.py). A few seconds."""

import json
from pathlib import Path

import pytest

from models.checkpoint import open_checkpoint
from models.named import resolve

GOLDEN = Path(__file__).parent.parent / "golden"
SMOLLM2 = json.loads((GOLDEN / "smollm2_tokens.json").read_text())
REFERENCE = json.loads((GOLDEN / "smollm2_greedy_reference.json").read_text())
TINY = json.loads((GOLDEN / "tiny_tokens.json").read_text())
# Which pre-tokeniser each tiny model has.
TINY_MODELS = {
    "tiny_llama": "smollm",
    "tiny_mixed.gguf": "smollm",
    "tiny_qwen3": "qwen2",
    "tiny_qwen2.gguf": "qwen2",
}


@pytest.fixture(scope="module")
def smollm2():
    return open_checkpoint(resolve("smollm2-135m-instruct"))


def assert_tokens(tokenizer, cases):
    assert len(cases) > 20
    for case in cases:
        assert tokenizer.encode(case["text"]) == case["ids"], case["text"]


def assert_reads_back(tokenizer, cases):
    for case in cases:
        # Qwen's NFC is the one thing that is not undone.
        if "llama_cpp_ids" not in case:
            assert tokenizer.decode(case["ids"]) == case["text"]
            stream = tokenizer.stream()
            pieces = [stream.push(token) for token in case["ids"]]
            assert "".join(pieces) == case["text"]
            assert "\ufffd" not in "".join(pieces)


def test_smollm2_tokens(smollm2):
    assert_tokens(smollm2.tokenizer, SMOLLM2["cases"])
    assert_reads_back(smollm2.tokenizer, SMOLLM2["cases"])


def test_smollm2_tokens_of_the_reference_prompts(smollm2):
    for prompt in REFERENCE["prompts"]:
        assert smollm2.tokenizer.encode(prompt["prompt"]) == prompt["prompt_ids"]
        assert smollm2.tokenizer.decode(prompt["greedy_ids"]) == prompt["greedy_text"]


def test_smollm2_ends_where_its_file_says(smollm2):
    assert smollm2.tokenizer.vocab_size == 49152
    assert 2 in smollm2.tokenizer.eos_ids  # <|im_end|>
    assert 1 not in smollm2.tokenizer.eos_ids  # <|im_start|>


def test_smollm2_chats(smollm2):
    assert_chats(smollm2.chat_template, SMOLLM2["chats"])


def assert_chats(template, chats):
    assert len(chats) == 4
    for chat in chats:
        rendered = template.render(
            chat["messages"], add_generation_prompt=chat["add_generation_prompt"]
        )
        assert rendered == chat["rendered"]


@pytest.mark.newest
@pytest.mark.parametrize("name", TINY_MODELS)
def test_tiny_tokens(name):
    tokenizer = open_checkpoint(GOLDEN / name).tokenizer
    assert_tokens(tokenizer, TINY[TINY_MODELS[name]])
    assert_reads_back(tokenizer, TINY[TINY_MODELS[name]])
    assert tokenizer.vocab_size == 288
    assert tokenizer.eos_ids == {0, 2}  # <|endoftext|> and <|im_end|>


@pytest.mark.parametrize("name", TINY_MODELS)
def test_tiny_chats(name):
    assert_chats(open_checkpoint(GOLDEN / name).chat_template, TINY["chats"])
