"""What a weights file holds before it is made into weights.

A `Checkpoint` is the same record whether it came from a GGUF file or a Hugging Face folder: the
decoder's config, and each tensor under our own key path (`layers/0/attention/q/kernel`), read and
dequantised only when asked for, one at a time.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from models.chat import ChatTemplate
from models.config import DecoderConfig
from models.errors import ModelError
from models.shapes import weight_shapes
from models.tokenizer import Tokenizer

# Near the end of float32's and bfloat16's range, where no weight lies: beyond it is damage.
_LARGEST_WEIGHT = 2.0**127


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """One tensor in a file: its shape in our order, the dtype's name there, and how to read it."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model's files, opened and checked; nothing large is in memory yet.

    Raises ModelError when built if the tensors are not those that `config` asks for.
    """

    name: str
    path: Path
    config: DecoderConfig
    tensors: Mapping[str, StoredTensor]
    read_tokenizer: Callable[[], Tokenizer]
    chat_template: ChatTemplate | None = None

    def __post_init__(self) -> None:
        check_tensors(self.config, self.tensors, str(self.path))

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokeniser in the files, built on first use (about half a second); ModelError."""
        return self.read_tokenizer()

    @property
    def tensor_names(self) -> tuple[str, ...]:
        """Our key paths of all the tensors, embedding first, in the order of the layers."""
        return tuple(weight_shapes(self.config))

    @property
    def stored_dtypes(self) -> dict[str, str]:
        """The dtype in the file, by key path: 'Q4_1', 'F32', 'BF16', …"""
        return {name: self.tensors[name].dtype for name in self.tensor_names}

    def read(self, name: str) -> np.ndarray:
        """One tensor, dequantised: float32, or bfloat16 where the file holds that.

        Shape as in `models.shapes`. Raises ModelError if the file has changed since it was opened,
        or if a value is not finite.
        """
        stored = self.tensors[name]
        values = stored.read()
        if values.shape != stored.shape:
            raise ModelError(f"{self.path}: {name} is {values.shape}, not {stored.shape}")
        # NaN fails both comparisons; the two reductions need no temporary as large as the tensor.
        if not (values.min() >= -_LARGEST_WEIGHT and values.max() <= _LARGEST_WEIGHT):
            raise ModelError(f"{self.path}: {name} holds values that are not finite; get it anew")
        return values


def check_tensors(config: DecoderConfig, tensors: Mapping[str, StoredTensor], source: str) -> None:
    """Raises ModelError that names the first tensor missing or mis-shaped for the config."""
    # A damaged count must not have us list a billion layers.
    if config.layers > len(tensors):
        raise ModelError(f"{source}: {len(tensors)} tensors cannot make {config.layers} layers")
    wanted = weight_shapes(config)
    missing = [name for name in wanted if name not in tensors]
    if missing:
        raise ModelError(f"{source}: tensor {_named(missing)} missing")
    extra = [name for name in tensors if name not in wanted]
    if extra:
        raise ModelError(f"{source}: tensor {_named(extra)} not known to this architecture")
    for name, shape in wanted.items():
        if tensors[name].shape != shape:
            found = list(tensors[name].shape)
            raise ModelError(f"{source}: {name} is {found}; the config asks for {list(shape)}")


def _named(names: list[str]) -> str:
    return f"{names[0]} is" if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more) are"
