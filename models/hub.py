"""Models on the Hugging Face Hub, where huggingface_hub is installed (an optional extra)."""

import json
from pathlib import Path
from types import ModuleType

from models.errors import ModelError

# Weights, config, tokeniser and chat template: nothing that is code or another framework's.
WANTED_FILES = ["*.json", "*.jinja", "*.safetensors"]


def fetch_folder(repository: str) -> Path:
    """The folder of `owner/name` in the Hub's own cache, downloaded if it is not whole there.

    Raises ModelError when huggingface_hub is missing, the network is, or the repository is.
    """
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise ModelError(f"hf:{repository}: a model on the Hub is named hf:owner/name")
    try:
        import huggingface_hub  # noqa: PLC0415  (an optional extra)
    except ImportError as error:
        raise ModelError(
            f"hf:{repository}: huggingface_hub is not installed; `pip install huggingface_hub`"
        ) from error
    try:
        return _cached_folder(huggingface_hub, repository) or Path(
            huggingface_hub.snapshot_download(repository, allow_patterns=WANTED_FILES)
        )
    # The library lets errors of its HTTP client through, whose kinds change between versions.
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise ModelError(
            f"hf:{repository}: cannot be fetched ({type(error).__name__}): "
            f"{reason[0] if reason else 'no reason given'}"
        ) from error


def _cached_folder(hub: ModuleType, repository: str) -> Path | None:
    try:
        folder = Path(hub.snapshot_download(repository, local_files_only=True))
    except hub.errors.LocalEntryNotFoundError:
        return None
    return folder if _is_whole(folder) else None


def _is_whole(folder: Path) -> bool:
    if not (folder / "config.json").is_file():
        return False
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return (folder / "model.safetensors").is_file()
    try:
        files = set(json.loads(index.read_text())["weight_map"].values())
    except (ValueError, KeyError, AttributeError):
        return False
    return all((folder / file).is_file() for file in files)
