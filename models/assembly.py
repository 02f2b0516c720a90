"""Our tensors out of those in a Hugging Face folder: renamed, cut apart, stacked, rearranged.

A family's table maps names within a layer to `Part`s. Most tensors are one part as it lies there;
experts that lie apart (`mlp.experts.7.up_proj.weight`, written with a `*`) are stacked; fused
tensors give several parts. Nothing is read before it is asked for.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping

import numpy as np

from models.errors import ModelError
from models.stored import StoredTensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """One of our tensors in a stored one."""

    path: str  # ours, within the layer
    take: Callable[[np.ndarray], np.ndarray]  # what is ours of it, [out, in]
    is_view: bool = True  # `take` makes a view of it; otherwise it keeps the shape


Names = Mapping[str, str | Part | tuple[Part, ...]]

_LAYER = re.compile(r"(?:model\.layers|transformer\.h)\.(\d+)\.(.*)")
_EXPERT = re.compile(r"\.experts\.(\d+)\.")


def assemble(
    stored: Mapping[str, StoredTensor], outer: Names, inner: Names, source: str
) -> dict[str, StoredTensor]:
    """Our tensors by key path; a stored tensor in neither table keeps its name.

    Raises ModelError where experts are not numbered from 0 up or differ in shape.
    """
    ours: dict[str, StoredTensor] = {}
    experts: dict[str, dict[int, StoredTensor]] = {}
    for name, tensor in stored.items():
        prefix, table, key = "", outer, name
        if found := _LAYER.fullmatch(name):
            prefix, table, key = f"layers/{int(found[1])}/", inner, found[2]
        expert = None
        if key not in table and (number := _EXPERT.search(key)):
            expert, key = int(number[1]), _EXPERT.sub(".experts.*.", key)
        if key not in table:
            ours[name] = tensor
            continue
        for part in _parts(table[key]):
            taken = _taken(tensor, part)
            if expert is None:
                ours[prefix + part.path] = taken
            else:
                experts.setdefault(prefix + part.path, {})[expert] = taken
    return ours | {path: _stack(path, those, source) for path, those in experts.items()}


def _parts(entry: str | Part | tuple[Part, ...]) -> tuple[Part, ...]:
    if isinstance(entry, str):
        return (Part(path=entry, take=_whole),)
    return (entry,) if isinstance(entry, Part) else entry


def _whole(values: np.ndarray) -> np.ndarray:
    return values


def _taken(tensor: StoredTensor, part: Part) -> StoredTensor:
    if part.take is _whole:
        return tensor
    shape = tensor.shape
    if part.is_view:
        # One number stands for all of the tensor's, so this takes no memory.
        shape = part.take(np.broadcast_to(np.float32(0), shape)).shape
    return StoredTensor(
        shape=shape, dtype=tensor.dtype, read=functools.partial(_read_part, tensor, part)
    )


def _read_part(tensor: StoredTensor, part: Part) -> np.ndarray:
    return part.take(tensor.read())


def _stack(path: str, experts: Mapping[int, StoredTensor], source: str) -> StoredTensor:
    first = experts.get(0)
    in_order = [experts[n] for n in sorted(experts)]
    if first is None or max(experts) != len(experts) - 1:
        raise ModelError(f"{source}: {path}: experts {sorted(experts)} are not all there")
    if any(expert.shape != first.shape for expert in in_order):
        raise ModelError(f"{source}: {path}: experts differ in shape")
    return StoredTensor(
        shape=(len(experts), *first.shape),
        dtype=first.dtype,
        read=functools.partial(_read_stack, in_order),
    )


def _read_stack(experts: list[StoredTensor]) -> np.ndarray:
    return np.stack([expert.read() for expert in experts])
