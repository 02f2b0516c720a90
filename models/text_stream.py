"""Text from token ids as they arrive, in whole characters only.

One token may hold part of a UTF-8 character (an emoji takes up to four), so a stream keeps the
bytes of an unfinished character until the rest of it has come. Byte-level vocabularies (GPT-2,
Qwen, SmolLM) say their bytes exactly; for any other kind the text of the last few ids is decoded
again at each push and what has been given out is taken off.
"""

import codecs
from collections.abc import Callable, Sequence
from typing import Protocol

_REPLACEMENT = "\ufffd"


class TextStream(Protocol):
    """Turns ids into text one by one; the pieces joined are the text of all the ids."""

    def push(self, token_id: int) -> str:
        """The text that this id completes: whole characters only, perhaps none."""

    def finish(self) -> str:
        """What is left at the end: a replacement character if one was cut short, or nothing."""


class ByteStream:
    """The stream of a byte-level vocabulary, whose every token is known as bytes."""

    def __init__(self, bytes_of: Callable[[int], bytes]) -> None:
        self._bytes_of = bytes_of
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """The text that this id completes."""
        return self._decoder.decode(self._bytes_of(token_id))

    def finish(self) -> str:
        """A replacement character if the last one was cut short."""
        return self._decoder.decode(b"", final=True)


class WindowStream:
    """The stream of any other vocabulary: decodes a short window of ids and gives out what is new.

    The window starts one whole piece of text back, since some decoders treat the first token of a
    text in a way of their own (they strip its leading space).
    """

    # A character takes at most 4 byte tokens; text that still ends in a replacement character
    # after as many ids really holds one.
    _MOST_HELD = 4

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._given_ids = 0

    def push(self, token_id: int) -> str:
        """The text that this id completes."""
        self._ids.append(token_id)
        text = self._decode(self._ids)
        held = len(self._ids) - self._given_ids
        if text.endswith(_REPLACEMENT) and held < self._MOST_HELD:
            return ""
        return self._give(text)

    def finish(self) -> str:
        """What was held back for want of the rest of a character."""
        return self._give(self._decode(self._ids))

    def _give(self, text: str) -> str:
        given = self._decode(self._ids[: self._given_ids])
        self._ids = self._ids[self._given_ids :]
        self._given_ids = len(self._ids)
        return text[len(given) :]
