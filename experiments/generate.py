"""The model writes: `python -m experiments.generate --prompt="def fibonacci(n):" --raw`.

Text streams to the terminal as whole characters, or `--json` prints one object at the end: token
ids of the prompt and of the answer, its text, time to first token and time per output token. The
programs are compiled before the clock starts. `--raw` is the model alone: no chat template, no
special tokens added, and end of text is a token like any other unless `--stop` says otherwise.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import flags

from experiments.errors import ExperimentError
from experiments.launcher import launch
from models.checkpoint import Checkpoint, open_checkpoint
from models.generate import Program, cache_length, generate, program
from models.named import DEFAULT_MODEL, resolve
from models.sampling import Sampling
from models.weights import load_weights, reads_in_place

_MODEL = flags.DEFINE_string("model", DEFAULT_MODEL, "a name, a path, or hf:owner/name")
_PROMPT = flags.DEFINE_string("prompt", None, "what to continue or, without --raw, to answer")
_PROMPT_FILE = flags.DEFINE_string("prompt_file", None, "a UTF-8 text file in place of --prompt")
_MAX_TOKENS = flags.DEFINE_integer("max_tokens", 64, "at most so many new tokens")
_TEMPERATURE = flags.DEFINE_float("temperature", 0.0, "0 takes the likeliest token")
_TOP_K = flags.DEFINE_integer("top_k", 0, "draw from the k likeliest; 0: from all")
_TOP_P = flags.DEFINE_float("top_p", 1.0, "draw from the fewest tokens whose shares reach p")
_SEED = flags.DEFINE_integer("seed", 0, "of the draws")
_DTYPE = flags.DEFINE_string("dtype", "float32", "weights in float32, bfloat16 or int8")
_RAW = flags.DEFINE_bool("raw", False, "no chat template, no special tokens added, no stop")
_JSON = flags.DEFINE_bool("json", False, "one JSON object in place of streamed text")
_STOP = flags.DEFINE_bool("stop", None, "end at end of text; by default so unless --raw")


def main() -> None:
    """Parse, load, write."""
    text = prompt_text(_PROMPT.value, _PROMPT_FILE.value)
    sampling = Sampling(
        temperature=_TEMPERATURE.value, top_k=_TOP_K.value, top_p=_TOP_P.value, seed=_SEED.value
    )
    checkpoint = open_checkpoint(resolve(_MODEL.value))
    prompt = prompt_ids(checkpoint, text, raw=_RAW.value)
    check_length(checkpoint, len(prompt), _MAX_TOKENS.value)
    stacked = reads_in_place(checkpoint.config, _DTYPE.value)
    weights = load_weights(checkpoint, _DTYPE.value, stacked=stacked)
    loaded = program(checkpoint.config, weights, sampling)
    length = cache_length([len(prompt)], max(_MAX_TOKENS.value, 2))
    _warm(loaded, checkpoint, prompt, length)
    stop = not _RAW.value if _STOP.value is None else _STOP.value
    stops = checkpoint.tokenizer.eos_ids if stop else frozenset[int]()
    tokens = (
        ids[0]
        for ids in generate(
            loaded,
            checkpoint.config,
            [prompt],
            max_tokens=_MAX_TOKENS.value,
            stop_ids=stops,
            length=length,
        )
    )
    written = write(checkpoint, tokens, stops, aloud=not _JSON.value)
    if _JSON.value:
        print(json.dumps({"prompt_tokens": prompt, **written}))


def prompt_text(prompt: str | None, file: str | None) -> str:
    """The prompt from the one flag of the two that was given; `ExperimentError` otherwise."""
    if (prompt is None) == (file is None):
        raise ExperimentError("give one of --prompt=TEXT and --prompt_file=FILE")
    if file is None:
        return str(prompt)
    try:
        return Path(file).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ExperimentError(f"{file}: not UTF-8 text at byte {error.start}") from error


def prompt_ids(checkpoint: Checkpoint, text: str, *, raw: bool) -> list[int]:
    """Token ids of a prompt: as it is for `raw`, else as the user's turn where there is a chat.

    Raises `ExperimentError` for a prompt of no tokens.
    """
    if not text:  # a chat template would make tokens of nothing
        raise ExperimentError("the prompt is empty: give at least one character")
    if raw:
        ids = checkpoint.tokenizer.encode(text)
    elif checkpoint.chat_template is None:
        ids = checkpoint.tokenizer.encode(text, add_special=True)
    else:  # the template writes the special tokens itself
        turn = checkpoint.chat_template.render([{"role": "user", "content": text}])
        ids = checkpoint.tokenizer.encode(turn)
    if not ids:
        raise ExperimentError("the prompt has no tokens: give other characters")
    return ids


def check_length(checkpoint: Checkpoint, prompt: int, max_tokens: int) -> None:
    """Refuse before anything is loaded what cannot fit: `ExperimentError`."""
    most = checkpoint.config.max_context
    if max_tokens < 1:
        raise ExperimentError(f"--max_tokens must be at least 1, not {max_tokens}")
    if prompt + max_tokens > most:
        raise ExperimentError(
            f"a prompt of {prompt} tokens and {max_tokens} more exceed the model's context of "
            f"{most}: shorten the prompt or lower --max_tokens"
        )


def write(
    checkpoint: Checkpoint, tokens: Iterator[int | None], stops: frozenset[int], *, aloud: bool
) -> dict[str, Any]:
    """Take tokens as they come, printing their text where asked; ids, text and times of all."""
    stream = checkpoint.tokenizer.stream()
    ids: list[int] = []
    pieces: list[str] = []
    start = now = first = time.perf_counter()
    for token in tokens:
        now = time.perf_counter()
        assert token is not None, "a single sequence ends the generation when it ends"
        first = first if ids else now
        ids.append(token)
        if token not in stops:
            _emit(stream.push(token), pieces, aloud)
    _emit(stream.finish(), pieces, aloud)
    if aloud:
        print(flush=True)
    return {
        "tokens": ids,
        "text": "".join(pieces),
        "ttft_s": first - start,
        "tpot_s": (now - first) / (len(ids) - 1) if len(ids) > 1 else None,
    }


def _emit(piece: str, pieces: list[str], aloud: bool) -> None:
    pieces.append(piece)
    if aloud and piece:
        sys.stdout.write(piece)
        sys.stdout.flush()


def _warm(loaded: Program, checkpoint: Checkpoint, prompt: list[int], length: int) -> None:
    """Compile what the prompt needs: two tokens take the prefill and the step."""
    room = min(2, checkpoint.config.max_context - len(prompt))
    for _ in generate(loaded, checkpoint.config, [prompt], max_tokens=room, length=length):
        pass


if __name__ == "__main__":
    launch(main)
