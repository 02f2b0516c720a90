"""Tokenisers: splits, special tokens, streams, refusals. Golden ids: test_golden_tokens.py."""

import functools
import json

import hypothesis
import pytest
import tokenizers
from hypothesis import strategies
from tokenizers import decoders, models, pre_tokenizers

from models.errors import ModelError
from models.fields import Fields
from models.tokenizer import Tokenizer, gguf_token_text, gguf_tokenizer, json_tokenizer

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool>"]
# All the bytes, so that any text can be written, and a few merges to see words by.
MERGES = ["1 2", "Ġ a", "a b", "ab c", "Ġ 1", "Ċ Ċ", "Ġ Ġ", "' T", "Ã ©", "# a"]
TOKENS = [*SPECIALS, *ALPHABET, *(merge.replace(" ", "") for merge in MERGES)]


def fields(**changes):
    values = {
        "model": "gpt2",
        "pre": "smollm",
        "tokens": TOKENS,
        "token_type": [3, 3, 3, 4] + [1] * (len(TOKENS) - 4),
        "merges": MERGES,
        "eos_token_id": 2,
        "bos_token_id": 1,
    } | changes
    values = {f"tokenizer.ggml.{key}": value for key, value in values.items()}
    return Fields(values=values, source="tiny.gguf")


def pieces(tokenizer, text):
    ids = tokenizer.encode(text)
    return [tokenizer.decode([token]) for token in ids]


@pytest.mark.newest
def test_smollm_splits_digits_one_by_one_and_then_as_gpt2_does():
    tokenizer = gguf_tokenizer(fields())
    # "12" and " 1" are tokens, but digits stand alone; a space before one stands alone as well.
    assert pieces(tokenizer, "12 12") == ["1", "2", " ", "1", "2"]
    assert pieces(tokenizer, "abc ab") == ["abc", " a", "b"]
    # GPT-2 splits a run of blanks before the last, which goes with the word behind it.
    assert pieces(tokenizer, "   a") == ["  ", " a"]
    assert pieces(tokenizer, "\n\nb") == ["\n", "\n", "b"]
    # Endings such as 't are of lower case only, and a sign is no part of a word.
    assert pieces(tokenizer, "x'T") == ["x", "'", "T"]
    assert pieces(tokenizer, "#a") == ["#", "a"]


@pytest.mark.newest
def test_qwen2_splits_by_its_own_pattern():
    tokenizer = gguf_tokenizer(fields(pre="qwen2"))
    assert pieces(tokenizer, "12 12") == ["1", "2", " ", "1", "2"]
    # One sign may stand before a word's letters, unlike GPT-2.
    assert pieces(tokenizer, "#a") == ["#a"]
    # Line ends stay together.
    assert pieces(tokenizer, "\n\nb") == ["\n\n", "b"]
    # Endings count in upper case too, so that the T belongs to the apostrophe.
    assert pieces(tokenizer, "x'Tabc") == ["x", "'T", "abc"]
    # NFC: e and an accent become one letter.
    assert tokenizer.decode(tokenizer.encode("e\u0301")) == "\u00e9"
    assert gguf_tokenizer(fields()).decode(gguf_tokenizer(fields()).encode("e\u0301")) == "e\u0301"


def test_special_tokens():
    tokenizer = gguf_tokenizer(fields())
    assert tokenizer.encode("<|im_start|>a<|im_end|>") == [1, TOKENS.index("a"), 2]
    assert tokenizer.encode("<tool>")[0] == 3  # a user-defined one
    assert tokenizer.decode([1, TOKENS.index("a"), 2]) == "<|im_start|>a<|im_end|>"
    assert tokenizer.id_of("<|im_end|>") == 2
    assert tokenizer.id_of("<|nothing|>") is None
    assert tokenizer.vocab_size == len(TOKENS)


def test_what_goes_in_front():
    text, letter = "a", TOKENS.index("a")
    assert gguf_tokenizer(fields()).encode(text, add_special=True) == [letter]
    with_bos = gguf_tokenizer(fields(add_bos_token=True))
    assert with_bos.encode(text, add_special=True) == [1, letter]
    assert with_bos.encode(text) == [letter]


def test_where_a_text_ends():
    # By eos and eot in the file, and by the names that end a turn or a text anywhere.
    assert gguf_tokenizer(fields()).eos_ids == {0, 2}
    assert gguf_tokenizer(fields(eos_token_id=3)).eos_ids == {0, 2, 3}
    assert gguf_tokenizer(fields(eot_token_id=1)).eos_ids == {0, 1, 2}
    plain = [1] * len(TOKENS)  # the same names as ordinary text end nothing
    assert gguf_tokenizer(fields(token_type=plain, eos_token_id=None)).eos_ids == set()


def test_token_texts_for_the_chat_template():
    assert gguf_token_text(fields(), "bos") == "<|im_start|>"
    assert gguf_token_text(fields(), "eos") == "<|im_end|>"
    assert gguf_token_text(fields(bos_token_id=None), "bos") == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "llama"}, "tokenizer.ggml.model 'llama' is not supported, 'gpt2' is"),
        ({"pre": "llama-bpe"}, "pre-tokeniser 'llama-bpe' is not supported, smollm and qwen2 are"),
        ({"pre": None}, "pre-tokeniser 'default' is not supported"),
        ({"tokens": None}, "tokenizer.ggml.tokens is missing"),
        ({"tokens": [1, 2]}, "tokenizer.ggml.tokens must be a list of strings"),
        ({"tokens": [*TOKENS[:-1], "a"]}, "holds a token twice"),
        ({"token_type": [1, 1]}, "2 entries in tokenizer.ggml.token_type for 270 tokens"),
        ({"token_type": [9] * len(TOKENS)}, "token_type holds an unknown kind"),
        ({"merges": ["a b", "a q"]}, "merge 1 of tokenizer.ggml.merges, 'a q', is not of tokens"),
        ({"merges": ["ab"]}, "merge 0 of tokenizer.ggml.merges, 'ab', is not of tokens"),
        ({"eos_token_id": 270}, "eos_token_id is 270, of 270 tokens"),
        ({"eos_token_id": -1}, "eos_token_id must be between 0 and"),
        ({"add_bos_token": True, "bos_token_id": None}, "bos_token_id is missing"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ModelError, match=message) as refusal:
        gguf_tokenizer(fields(**changes))
    assert str(refusal.value).startswith("tiny.gguf: ")


@hypothesis.given(strategies.text())
def test_any_text_reads_back(text):
    tokenizer = gguf_tokenizer_once()
    assert tokenizer.decode(tokenizer.encode(text)) == text


@hypothesis.given(strategies.lists(strategies.integers(0, len(TOKENS) + 5)))
@hypothesis.example([TOKENS.index(token) for token in "ðŁĻĤ"])  # one emoji, byte by byte
@hypothesis.example([TOKENS.index("ð"), TOKENS.index("a")])  # a character cut short by a letter
def test_a_stream_gives_the_whole_text_in_whole_characters(ids):
    tokenizer = gguf_tokenizer_once()
    stream = tokenizer.stream()
    given = [stream.push(token) for token in ids]
    assert "".join(given) + stream.finish() == tokenizer.decode(ids)


def test_a_stream_waits_for_the_rest_of_a_character():
    stream = gguf_tokenizer_once().stream()
    ids = gguf_tokenizer_once().encode("a🙂b")
    assert [stream.push(token) for token in ids] == ["a", "", "", "", "🙂", "b"]
    assert stream.finish() == ""
    cut_short = gguf_tokenizer_once().stream()
    assert [cut_short.push(token) for token in ids[:3]] == ["a", "", ""]
    assert cut_short.finish() == "\ufffd"


@functools.cache
def gguf_tokenizer_once():
    return gguf_tokenizer(fields())


def test_ids_that_are_no_tokens():
    tokenizer = gguf_tokenizer(fields())
    assert tokenizer.decode([len(TOKENS) + 100]) == ""  # a padding row of the embedding
    for use in (tokenizer.decode, lambda ids: tokenizer.stream().push(ids[0])):
        with pytest.raises(ModelError, match="token id -1 is negative"):
            use([-1])


def test_text_that_is_not_unicode():
    with pytest.raises(ModelError, match="not Unicode text at character 2"):
        gguf_tokenizer(fields()).encode("ab\ud800c")


def sentencepiece_like():
    """A vocabulary of words behind ▁, with single bytes to fall back on, as Llama 2 has."""
    words = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "▁a",
        "a",
        "b",
    ]
    ids = {word: number for number, word in enumerate(words)}
    backend = tokenizers.Tokenizer(
        models.BPE(vocab=ids, merges=[("▁", "a")], byte_fallback=True, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return Tokenizer(backend, eos_ids=[2])


@pytest.mark.parametrize("text", ["a a🙂a", "🙂", "a", "ab\u00e9 a🙂🙂 b", "é" * 9])
def test_a_stream_of_another_kind_of_vocabulary(text):
    tokenizer = sentencepiece_like()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    stream = tokenizer.stream()
    given = [stream.push(token) for token in ids]
    assert "".join(given) + stream.finish() == text
    assert not any("\ufffd" in piece for piece in given)


def test_a_stream_does_not_wait_for_ever():
    tokenizer = sentencepiece_like()
    stream = tokenizer.stream()
    lone = tokenizer.id_of("<0xF0>")
    given = [stream.push(token) for token in [lone] * 8]
    assert "\ufffd" in "".join(given)


def test_tokenizer_json(tmp_path):
    path = tmp_path / "tokenizer.json"
    backend = tokenizers.Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "ab": 2}, merges=[("a", "b")]))
    backend.add_special_tokens(["<|im_end|>", "<end>"])
    # Padding and truncation that a file may ask for are for training.
    backend.enable_truncation(2)
    backend.enable_padding(length=7)
    backend.save(str(path))
    tokenizer = json_tokenizer(path, [1], "<end>")
    assert tokenizer.encode("abab<end>a") == [2, 2, 4, 0]
    assert tokenizer.eos_ids == {1, 3, 4}


def test_tokenizer_json_adds_what_its_file_asks_for(tmp_path):
    path = tmp_path / "tokenizer.json"
    backend = tokenizers.Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    backend.add_special_tokens(["<s>"])
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    backend.save(str(path))
    assert json_tokenizer(path, []).encode("a", add_special=True) == [1, 0]
    assert json_tokenizer(path, []).encode("a") == [0]


def test_tokenizer_json_that_cannot_be_used(tmp_path):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(ModelError, match=r"tokenizer.json: cannot be read"):
        json_tokenizer(path, [])
    for content in ("", "{}", json.dumps({"model": {"type": "Nonsense"}})):
        path.write_text(content)
        with pytest.raises(ModelError, match=r"not a tokenizer\.json that can be used"):
            json_tokenizer(path, [])
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ModelError, match="cannot be read"):
        json_tokenizer(path, [])
