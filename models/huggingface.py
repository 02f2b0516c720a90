"""A Hugging Face folder as a checkpoint: config.json, safetensors, tokenizer.json.

`models.families` says which `model_type`s are read, and how. Tensors lie in one
model.safetensors, or in several that model.safetensors.index.json lists; they stay in the files
until they are read, one by one.
"""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from models.assembly import assemble
from models.chat import ChatTemplate
from models.errors import ModelError
from models.fields import Fields
from models.huggingface_config import decoder_config, family_of
from models.stored import Checkpoint, StoredTensor
from models.tokenizer import Tokenizer, json_tokenizer

_ONE_FILE = "model.safetensors"
_INDEX_FILE = "model.safetensors.index.json"
_READABLE_DTYPES = ("F32", "F16", "BF16")

# A table that old Llama files carry along; it follows from the config.
_LEFT_OUT = "self_attn.rotary_emb.inv_freq"


def open_folder(path: Path) -> Checkpoint:
    """Opens a Hugging Face folder and checks it whole; weights are read when asked for.

    Raises ModelError for a missing or damaged file, another model_type, a feature of the config
    that is not supported, and a missing, unknown or mis-shaped tensor.
    """
    config_fields = _read_json(path / "config.json")
    files = _stored_tensors(path)
    config = decoder_config(config_fields, has_head="lm_head.weight" in files)
    stored = assemble(files, *family_of(config_fields).names(config), str(path))
    # Layers behind the last, with which some models guess several tokens ahead.
    guessing = config_fields.integer("num_nextn_predict_layers", 0)
    for layer in range(config.layers, config.layers + min(guessing, len(files))):
        stored = {name: t for name, t in stored.items() if not _is_of(name, layer)}
    if config.tied_embeddings:
        stored.pop("head/kernel", None)  # some tied files hold the embedding a second time
    tokenizer_fields = _read_json(path / "tokenizer_config.json", optional=True)
    return Checkpoint(
        name=_name_of(path),
        path=path,
        config=config,
        tensors=stored,
        read_tokenizer=functools.partial(_read_tokenizer, path, config_fields, tokenizer_fields),
        chat_template=_chat_template(path, tokenizer_fields),
    )


def _is_of(name: str, layer: int) -> bool:
    return name.startswith((f"layers/{layer}/", f"model.layers.{layer}."))


def _stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    stored = {}
    for file, listed in _tensor_files(folder).items():
        for name, shape, dtype in _contents(file):
            if listed is not None and name not in listed:
                raise ModelError(f"{file}: tensor {name} is not in {_INDEX_FILE}")
            if name.endswith(_LEFT_OUT):
                continue
            if dtype not in _READABLE_DTYPES:
                raise ModelError(
                    f"{file}: tensor {name} is {dtype}, which is not supported; "
                    f"{', '.join(_READABLE_DTYPES)} are"
                )
            stored[name] = StoredTensor(
                shape=shape, dtype=dtype, read=functools.partial(_read_tensor, file, name)
            )
    return stored


def _tensor_files(folder: Path) -> dict[Path, frozenset[str] | None]:
    """The files, each with the tensors that the index has in it (None: there is no index)."""
    index_file = folder / _INDEX_FILE
    if not index_file.exists():
        return {folder / _ONE_FILE: None}
    listed: dict[Path, set[str]] = {}
    for tensor, file in _read_json(index_file).record("weight_map").values.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise ModelError(f"{index_file}: {tensor} must lie in a file of this folder: {file!r}")
        listed.setdefault(folder / file, set()).add(tensor)
    if not listed:
        raise ModelError(f"{index_file}: weight_map is missing or empty")
    return {file: frozenset(tensors) for file, tensors in listed.items()}


def _contents(file: Path) -> list[tuple[str, tuple[int, ...], str]]:
    with _opened(file) as tensors:
        slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
        return [(name, tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()]


def _read_tensor(file: Path, name: str) -> np.ndarray:
    with _opened(file) as tensors:
        values: np.ndarray = tensors.get_tensor(name)
    return values.astype(np.float32) if values.dtype == np.float16 else values


def _opened(file: Path) -> Any:
    if not file.exists():
        raise ModelError(f"{file}: no such file")
    try:
        return safetensors.safe_open(file, framework="numpy")
    except (safetensors.SafetensorError, OSError) as error:
        raise ModelError(f"{file}: not a whole safetensors file: {error}") from error


def _read_tokenizer(folder: Path, config: Fields, tokenizer: Fields) -> Tokenizer:
    generation = _read_json(folder / "generation_config.json", optional=True)
    eos_ids = _ids(generation, "eos_token_id") or _ids(config, "eos_token_id")
    eos_token = _token_text(tokenizer, "eos_token")
    return json_tokenizer(folder / "tokenizer.json", eos_ids, eos_token or None)


def _chat_template(folder: Path, tokenizer: Fields) -> ChatTemplate | None:
    file = folder / "chat_template.jinja"
    source = _read_text(file) if file.exists() else _template_source(tokenizer)
    if source is None:
        return None
    return ChatTemplate(
        source,
        bos_token=_token_text(tokenizer, "bos_token"),
        eos_token=_token_text(tokenizer, "eos_token"),
    )


def _template_source(tokenizer: Fields) -> str | None:
    template = tokenizer.values.get("chat_template")
    if isinstance(template, list):  # several by name: the one that is for plain chat
        named = [entry for entry in template if isinstance(entry, dict)]
        template = next((t.get("template") for t in named if t.get("name") == "default"), None)
    if template is None or isinstance(template, str):
        return template
    raise ModelError(f"{tokenizer.source}: chat_template must be a string")


def _token_text(tokenizer: Fields, key: str) -> str:
    value = tokenizer.values.get(key)
    # A token is written as its text, or as an object that has it under "content".
    text = value.get("content") if isinstance(value, Mapping) else value
    return text if isinstance(text, str) else ""


def _ids(fields: Fields, key: str) -> list[int]:
    if not fields.has(key):
        return []
    if isinstance(fields.values[key], list):
        return fields.integers(key)
    return [fields.integer(key)]


def _read_json(file: Path, *, optional: bool = False) -> Fields:
    if optional and not file.exists():
        return Fields(values={}, source=str(file))
    text = _read_text(file)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file}: not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise ModelError(f"{file}: must be a JSON object")
    return Fields(values=values, source=str(file))


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ModelError(f"{file}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{file}: cannot be read: {error}") from error


def _name_of(folder: Path) -> str:
    folder = folder.resolve()
    # The Hub's cache keeps a model in models--owner--name/snapshots/COMMIT.
    if folder.parent.name == "snapshots":
        return folder.parent.parent.name.removeprefix("models--").replace("--", "/")
    return folder.name
