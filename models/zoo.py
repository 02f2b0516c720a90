"""A zoo of named architectures, to trace or place without their weights.

`zoo.toml` beside this file has each one's config.json, its published parameter count, and where
both come from. They are read as a Hugging Face folder's config.json is, so what is traced is the
decoder that would run.

    llama = architecture("llama-3.1-70b")
    weights = llama.weights("bfloat16")          # jax.ShapeDtypeStructs: megabytes, not gigabytes
    cache = llama.cache(batch=1, length=2048)
"""

import dataclasses
import difflib
import functools
import re
import tomllib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from models.cache import KVCache, new_cache
from models.config import DecoderConfig
from models.errors import ModelError
from models.fields import Fields
from models.huggingface_config import decoder_config
from models.shapes import parameters, shapes

_FILE = Path(__file__).with_name("zoo.toml")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """One named decoder."""

    name: str
    config: DecoderConfig
    published_parameters: int
    published: str  # where that count is published
    confirmed: str = ""  # where it was seen, or what it was quoted from; empty: nowhere
    beside: int = 0  # numbers in that count that the decoder does not have (a vision tower)
    source: str  # of the dimensions
    unverified: str = ""  # what of it nobody has checked; empty: nothing
    checked: bool = True  # against transformers' logits, at toy size; PaLM is not among its models

    @property
    def parameters(self) -> int:
        """How many numbers the weights are; a tied embedding counts once."""
        return parameters(self.config)

    def weights(self, dtype: str = "bfloat16", *, scanned: bool = True) -> dict[str, Any]:
        """The weights tree as `jax.ShapeDtypeStruct`s."""
        return shapes(self.config, dtype, scanned=scanned)

    def cache(
        self,
        *,
        batch: int,
        length: int,
        dtype: jax.typing.DTypeLike = jnp.bfloat16,
        at_once: int = 1,
        scanned: bool = True,
    ) -> KVCache:
        """A cache as `jax.ShapeDtypeStruct`s, for steps of up to `at_once` tokens."""
        cache: KVCache = jax.eval_shape(
            functools.partial(
                new_cache,
                self.config,
                batch=batch,
                length=length,
                dtype=dtype,
                at_once=at_once,
                scanned=scanned,
            )
        )
        return cache


# What a hub has before a model's name, and what names of tuned copies have in them: the decoder is
# the same. Not so with versions (`-v0.3`) and dates (`-2507`), which are names of their own.
_HUB = re.compile(r"^[\w.-]+/|^meta-(?=llama)")
_TUNED = re.compile(r"-(instruct|chat|it|base|hf)(?=-|$)")


def names() -> tuple[str, ...]:
    """The names of all architectures, as they stand in the file; without their aliases."""
    return tuple(name for name, entry in _entries().items() if "absent" not in entry)


@functools.cache
def architecture(name: str) -> Architecture:
    """The architecture of that name, which may be an alias or a tuned copy's (`…-instruct-2507`),
    and have the hub's owner before it (`openai/…`).

    Raises ModelError, with the nearest names or why it is not here, where there is none.
    """
    asked, known = name, _known_as()
    if name not in known:
        name = _HUB.sub("", _HUB.sub("", name))
    if name not in known:
        name = _TUNED.sub("", name)
    if name not in known:
        near = difflib.get_close_matches(asked.lower(), known, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "see models/zoo.toml"
        raise ModelError(f"no architecture is called {asked!r}; {hint}")
    name = known[name]
    entry = _entries()[name]
    if "absent" in entry:
        raise ModelError(f"{asked} is not among the architectures here: {entry['absent']}")
    return Architecture(
        name=name,
        config=_config(name, entry),
        checked="config" in entry,
        published_parameters=entry["parameters"],
        published=entry["published"],
        source=entry["source"],
        confirmed=entry.get("confirmed", ""),
        beside=entry.get("beside", 0),
        unverified=entry.get("unverified", ""),
    )


def _config(name: str, entry: dict[str, Any]) -> DecoderConfig:
    if "config" in entry:
        values = entry["config"] | dict.fromkeys(entry.get("nulls", ()))
        fields = Fields(values=values, source=f"{_FILE.name}: {name}")
        return decoder_config(fields, has_head=True)
    return DecoderConfig(**entry["decoder"])


@functools.cache
def _known_as() -> dict[str, str]:
    """The entries' names by every name that they are known by."""
    known = {
        alias: name for name, entry in _entries().items() for alias in entry.get("aliases", ())
    }
    return known | {name: name for name in _entries()}


@functools.cache
def _entries() -> dict[str, Any]:
    with _FILE.open("rb") as file:
        return tomllib.load(file)
