"""Text to token ids and back, by the `tokenizers` library.

A GGUF file carries a byte-level vocabulary and its merges, but of the splitting into words only a
name (`tokenizer.ggml.pre`). The splits of the two that are supported are those of the models' own
tokenizer.json: SmolLM2 splits digits one by one and then as GPT-2 does; Qwen2 normalises to NFC and
splits by its own pattern, which llama.cpp's `src/llama-vocab.cpp` quotes as well.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from models.errors import ModelError
from models.fields import Fields
from models.text_stream import ByteStream, TextStream, WindowStream

_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Tokens that end a turn or a text wherever a vocabulary has them, whatever else its file names:
# instruct models end with the first kinds, and raw completion of code with the last.
_END_TOKENS = ("<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|endoftext|>")

# The kinds of token in tokenizer.ggml.token_type.
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
_LAST_KIND = 6


class Tokenizer:
    """A vocabulary with its splitting and its special tokens."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        eos_ids: Iterable[int],
        prefix_ids: Sequence[int] | None = None,
    ) -> None:
        """Wraps a `tokenizers.Tokenizer`.

        `prefix_ids` are what `add_special` puts in front; None leaves that to the backend.
        """
        self._backend = backend
        self._prefix_ids = prefix_ids
        self.eos_ids = frozenset(eos_ids)

    @property
    def vocab_size(self) -> int:
        """How many tokens there are; a model's embedding may have more rows, as padding."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str, add_special: bool = False) -> list[int]:
        """Ids of a text; the names of special tokens in it become those tokens.

        `add_special` puts in front (and behind) what the model's files ask for. Raises ModelError
        for a string that is not Unicode text (a lone surrogate).
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ModelError(f"prompt: not Unicode text at character {error.start}") from error
        add_by_backend = add_special and self._prefix_ids is None
        ids = self._backend.encode(text, add_special_tokens=add_by_backend).ids
        return [*(self._prefix_ids or ()), *ids] if add_special else list(ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens by their names; rows beyond the vocabulary have none.

        Bytes that are not UTF-8 become replacement characters. Raises ModelError for an id < 0.
        """
        return str(self._backend.decode([self._checked(i) for i in ids], skip_special_tokens=False))

    def stream(self) -> TextStream:
        """A fresh stream: `push(id)` gives the whole characters that the id completes."""
        if isinstance(self._backend.decoder, decoders.ByteLevel):
            return ByteStream(self._bytes_of)
        return WindowStream(self.decode)

    def id_of(self, token: str) -> int | None:
        """The id of a token by its name, or None."""
        token_id: int | None = self._backend.token_to_id(token)
        return token_id

    def _bytes_of(self, token_id: int) -> bytes:
        token = self._backend.id_to_token(self._checked(token_id))
        if token is None:
            return b""
        alphabet = _byte_alphabet()
        # A token with a letter outside the alphabet stands for itself: an added one.
        if all(letter in alphabet for letter in token):
            return bytes(alphabet[letter] for letter in token)
        return str(token).encode()

    def _checked(self, token_id: int) -> int:
        if token_id < 0:
            raise ModelError(f"token id {token_id} is negative")
        return int(token_id)


def gguf_tokenizer(metadata: Fields) -> Tokenizer:
    """The tokeniser in a GGUF file's metadata (keys `tokenizer.ggml.*`).

    Raises ModelError for another kind of vocabulary than byte-level BPE, another pre-tokeniser than
    `smollm` and `qwen2`, and for vocabulary, merges or special ids that do not fit together.
    """
    kind = metadata.text("tokenizer.ggml.model")
    if kind != "gpt2":
        raise ModelError(
            f"{metadata.source}: tokenizer.ggml.model {kind!r} is not supported, 'gpt2' is"
        )
    split = _split_of(metadata)
    tokens = metadata.texts("tokenizer.ggml.tokens")
    ids = {token: token_id for token_id, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        raise ModelError(f"{metadata.source}: tokenizer.ggml.tokens holds a token twice")
    backend = tokenizers.Tokenizer(models.BPE(vocab=ids, merges=_merges(metadata, ids)))
    split(backend)
    backend.decoder = decoders.ByteLevel()
    kinds = _kinds(metadata, len(tokens))
    for special, wanted in ((True, (_CONTROL, _UNKNOWN)), (False, (_USER_DEFINED,))):
        named = [
            token for token, kind in zip(tokens, kinds, strict=True) if kind in wanted and token
        ]
        added = [tokenizers.AddedToken(token, special=special, normalized=False) for token in named]
        (backend.add_special_tokens if special else backend.add_tokens)(added)
    prefix_ids = []
    if metadata.flag("tokenizer.ggml.add_bos_token", False):
        prefix_ids.append(_special_id(metadata, "bos", len(tokens)))
    ends = [
        _special_id(metadata, name, len(tokens))
        for name in ("eos", "eot")
        if metadata.has(f"tokenizer.ggml.{name}_token_id")
    ]
    return Tokenizer(backend, eos_ids=[*ends, *end_token_ids(backend)], prefix_ids=prefix_ids)


def gguf_token_text(metadata: Fields, name: str) -> str:
    """The text of the `bos` or `eos` token of a GGUF file, or '' where it names none."""
    if not metadata.has(f"tokenizer.ggml.{name}_token_id"):
        return ""
    tokens = metadata.texts("tokenizer.ggml.tokens")
    return tokens[_special_id(metadata, name, len(tokens))]


def json_tokenizer(path: Path, eos_ids: Iterable[int], eos_token: str | None = None) -> Tokenizer:
    """The tokeniser in a Hugging Face tokenizer.json, ending at `eos_ids` and `eos_token` too.

    Raises ModelError for a file that is missing or that `tokenizers` cannot read.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from error
    try:
        backend = tokenizers.Tokenizer.from_str(content)
    except Exception as error:  # the library raises bare Exceptions
        raise ModelError(f"{path}: not a tokenizer.json that can be used: {error}") from error
    backend.no_padding()
    backend.no_truncation()
    named = [] if eos_token is None else [backend.token_to_id(eos_token)]
    ends = [*eos_ids, *(i for i in named if i is not None), *end_token_ids(backend)]
    return Tokenizer(backend, eos_ids=ends)


def end_token_ids(backend: tokenizers.Tokenizer) -> list[int]:
    """Ids of the special tokens that end a turn or a text by their very names."""
    added = backend.get_added_tokens_decoder()
    return [i for i, token in added.items() if token.special and token.content in _END_TOKENS]


def _split_of(metadata: Fields) -> Callable[[tokenizers.Tokenizer], None]:
    name = metadata.text("tokenizer.ggml.pre", "default")
    splits = {"smollm": _split_as_smollm, "qwen2": _split_as_qwen2}
    if name not in splits:
        raise ModelError(
            f"{metadata.source}: pre-tokeniser {name!r} is not supported, "
            f"{' and '.join(splits)} are"
        )
    return splits[name]


def _split_as_smollm(backend: tokenizers.Tokenizer) -> None:
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )


def _split_as_qwen2(backend: tokenizers.Tokenizer) -> None:
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(_QWEN2_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _merges(metadata: Fields, ids: dict[str, int]) -> list[tuple[str, str]]:
    merges = []
    for number, merge in enumerate(metadata.texts("tokenizer.ggml.merges")):
        left, _, right = merge.partition(" ")
        # The library would panic on one that it has no id for.
        if left not in ids or right not in ids or left + right not in ids:
            raise ModelError(
                f"{metadata.source}: merge {number} of tokenizer.ggml.merges, {merge[:40]!r}, "
                f"is not of tokens in the vocabulary"
            )
        merges.append((left, right))
    return merges


def _kinds(metadata: Fields, count: int) -> list[int]:
    kinds = metadata.integers("tokenizer.ggml.token_type")
    if len(kinds) != count:
        raise ModelError(
            f"{metadata.source}: {len(kinds)} entries in tokenizer.ggml.token_type "
            f"for {count} tokens"
        )
    if not all(0 <= kind <= _LAST_KIND for kind in kinds):
        raise ModelError(f"{metadata.source}: tokenizer.ggml.token_type holds an unknown kind")
    return kinds


def _special_id(metadata: Fields, name: str, count: int) -> int:
    token_id = metadata.integer(f"tokenizer.ggml.{name}_token_id")
    if token_id >= count:
        raise ModelError(
            f"{metadata.source}: tokenizer.ggml.{name}_token_id is {token_id}, of {count} tokens"
        )
    return token_id


@functools.cache
def _byte_alphabet() -> dict[str, int]:
    # GPT-2 writes each byte as a printable letter: printable Latin-1 as itself, the others as the
    # letters from U+0100 on, in order (openai/gpt-2, src/encoder.py).
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet |= {chr(0x100 + number): byte for number, byte in enumerate(others)}
    return alphabet
