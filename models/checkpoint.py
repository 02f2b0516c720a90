"""Opens a model's files, whichever of the two kinds they are."""

from pathlib import Path

from models.errors import ModelError
from models.gguf_file import open_gguf
from models.huggingface import open_folder
from models.stored import Checkpoint

__all__ = ["Checkpoint", "open_checkpoint"]


def open_checkpoint(path: Path | str) -> Checkpoint:
    """Opens a GGUF file or a Hugging Face folder; weights are read later, one at a time.

    Raises ModelError when there is nothing there or it cannot be used.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return open_folder(path)
        if path.exists():
            return open_gguf(path)
    except ModelError as error:
        # What a config or a template says of itself does not know which file it came from.
        if str(error).startswith(str(path)):
            raise
        raise ModelError(f"{path}: {error}") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    raise ModelError(f"{path}: no such file or folder")
