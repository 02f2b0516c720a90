"""A GGUF file as a checkpoint: llama.cpp's names and layout turned into ours.

Three architectures are read: `llama`, `qwen2` and `qwen3`. The `gguf` package dequantises. For arch
`llama` llama.cpp rotates neighbouring pairs (0, 1), (2, 3), … where Hugging Face rotates the two
halves, so its converter permutes the rows of Q and K (`permute` in convert_hf_to_gguf.py); here
they are put back. The Qwen architectures are stored as they were.
"""

import dataclasses
import functools
import math
from pathlib import Path

import gguf
import gguf.quants
import ml_dtypes
import numpy as np

from models.chat import ChatTemplate
from models.config import DecoderConfig
from models.errors import ModelError
from models.fields import Fields
from models.gguf_header import GgufHeader, TensorInfo, read_header
from models.gguf_rope import scaling_of
from models.stored import Checkpoint, StoredTensor
from models.tokenizer import gguf_token_text, gguf_tokenizer

_ARCHITECTURES = ("llama", "qwen2", "qwen3")

_TYPES = gguf.GGMLQuantizationType
_READABLE_TYPES = (
    _TYPES.F32,
    _TYPES.F16,
    _TYPES.BF16,
    _TYPES.Q8_0,
    _TYPES.Q4_0,
    _TYPES.Q4_1,
    _TYPES.Q5_0,  # what a "Q4_K_M" file falls back to in rows that are no multiple of 256
    _TYPES.Q4_K,
    _TYPES.Q5_K,
    _TYPES.Q6_K,
)

_OUTER_NAMES = {
    "token_embd.weight": "embedding/weight",
    "output_norm.weight": "norm/scale",
    "output.weight": "head/kernel",
}
_LAYER_NAMES = {
    "attn_norm.weight": "attention_norm/scale",
    "attn_q.weight": "attention/q/kernel",
    "attn_k.weight": "attention/k/kernel",
    "attn_v.weight": "attention/v/kernel",
    "attn_q.bias": "attention/q/bias",
    "attn_k.bias": "attention/k/bias",
    "attn_v.bias": "attention/v/bias",
    "attn_q_norm.weight": "attention/q_norm/scale",
    "attn_k_norm.weight": "attention/k_norm/scale",
    "attn_output.weight": "attention/o/kernel",
    "ffn_norm.weight": "mlp_norm/scale",
    "ffn_gate.weight": "mlp/gate/kernel",
    "ffn_up.weight": "mlp/up/kernel",
    "ffn_down.weight": "mlp/down/kernel",
}
# Not a weight: Llama 3's stretching of each rotary wavelength.
_ROPE_FACTORS = "rope_freqs.weight"

# The keys under the architecture's name that the config takes in or that change nothing here. Any
# other one may change what the model computes, so the file is refused.
_KNOWN_KEYS = (
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "vocab_size",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "attention.causal",
    "attention.sliding_window",
    "expert_count",
    "expert_used_count",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
)
# Values dequantised at a time (a multiple of every block's): the package's temporaries are several
# times its output, and this keeps them in the cache.
_PIECE_VALUES = 2**17


def open_gguf(path: Path) -> Checkpoint:
    """Opens a GGUF file: reads its header and checks it whole; weights are read when asked for.

    Raises ModelError for a damaged file, another architecture, a tensor type that is not among the
    readable ones, a missing or mis-shaped tensor, and any key that would need code we lack.
    """
    header = read_header(path)
    metadata = Fields(values=header.metadata, source=str(path))
    architecture = metadata.text("general.architecture")
    if architecture not in _ARCHITECTURES:
        raise ModelError(
            f"{path}: architecture {architecture!r} is not supported, "
            f"{', '.join(_ARCHITECTURES)} are"
        )
    _check_types(header, path)
    config = _config(metadata, architecture, header, path)
    return Checkpoint(
        name=path.stem,
        path=path,
        config=config,
        tensors=_tensors(header, config, path, rows_are_permuted=architecture == "llama"),
        read_tokenizer=functools.partial(gguf_tokenizer, metadata),
        chat_template=_chat_template(metadata),
    )


def read_tensor(path: Path, tensor: TensorInfo) -> np.ndarray:
    """One tensor of a GGUF file, dequantised: float32 (bfloat16 for BF16), slowest axis first.

    Raises ModelError if the file cannot be read or has become shorter.
    """
    try:
        data = np.fromfile(path, np.uint8, count=tensor.size_bytes, offset=tensor.start_bytes)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    if data.size != tensor.size_bytes:
        raise ModelError(f"{path}: became shorter since it was opened, at {tensor.name!r}")
    if tensor.type == _TYPES.F32:
        values: np.ndarray = data.view("<f4").reshape(tensor.shape)
        return values
    if tensor.type == _TYPES.BF16:
        return np.asarray(data.view(ml_dtypes.bfloat16).reshape(tensor.shape))
    block_values, block_bytes = gguf.GGML_QUANT_SIZES[tensor.type]
    flat = np.empty(math.prod(tensor.shape), np.float32)
    # Blocks do not cross rows, so the tensor can be taken as one long row, a piece at a time.
    for start in range(0, flat.size, _PIECE_VALUES):
        stop = min(start + _PIECE_VALUES, flat.size)
        blocks = data[start // block_values * block_bytes : stop // block_values * block_bytes]
        with np.errstate(all="ignore"):  # `Checkpoint.read` refuses what is not finite
            flat[start:stop] = gguf.quants.dequantize(blocks, tensor.type)
    return flat.reshape(tensor.shape)


def _config(metadata: Fields, architecture: str, header: GgufHeader, path: Path) -> DecoderConfig:
    def key(name: str) -> str:
        return f"{architecture}.{name}"

    unknown = [
        name
        for name in header.metadata
        if name.startswith(key("")) and name.removeprefix(key("")) not in _KNOWN_KEYS
    ]
    if unknown:
        raise ModelError(f"{path}: {unknown[0]} is a feature that is not supported")
    for feature in ("expert_count", "attention.sliding_window"):
        if metadata.integer(key(feature), 0):
            raise ModelError(f"{path}: {key(feature)} is not 0, which is not supported")
    if not metadata.flag(key("attention.causal"), True):
        raise ModelError(f"{path}: {key('attention.causal')} is false, which is not supported")

    width = metadata.integer(key("embedding_length"))
    heads = metadata.integer(key("attention.head_count"))
    head_width = metadata.integer(key("attention.key_length"), width // max(heads, 1))
    for same in ("attention.value_length", "rope.dimension_count"):
        if metadata.integer(key(same), head_width) != head_width:
            raise ModelError(
                f"{path}: {key(same)} is {metadata.integer(key(same))}, but only the head width "
                f"({head_width}) is supported"
            )
    vocab_size = len(metadata.texts("tokenizer.ggml.tokens"))
    if metadata.integer(key("vocab_size"), vocab_size) != vocab_size:
        raise ModelError(
            f"{path}: {key('vocab_size')} is {metadata.integer(key('vocab_size'))}, but the "
            f"file has {vocab_size} tokens"
        )
    _refuse_rope_scaling(metadata, architecture)
    config = DecoderConfig(
        vocab_size=vocab_size,
        layers=metadata.integer(key("block_count")),
        width=width,
        heads=heads,
        kv_heads=metadata.integer(key("attention.head_count_kv"), heads),
        head_width=head_width,
        mlp_width=metadata.integer(key("feed_forward_length")),
        max_context=metadata.integer(key("context_length")),
        tied_embeddings="output.weight" not in header.tensors,
        rope_theta=metadata.number(key("rope.freq_base"), 10_000.0),
        norm_epsilon=metadata.number(key("attention.layer_norm_rms_epsilon")),
        attention_bias=architecture == "qwen2" or "blk.0.attn_q.bias" in header.tensors,
        qk_norm=architecture == "qwen3",
    )
    if _ROPE_FACTORS not in header.tensors:
        return config
    divisors = read_tensor(path, header.tensors[_ROPE_FACTORS])
    return dataclasses.replace(config, rope_scaling=scaling_of(divisors, config, str(path)))


def _check_types(header: GgufHeader, path: Path) -> None:
    for info in header.tensors.values():
        if info.type not in _READABLE_TYPES:
            raise ModelError(
                f"{path}: tensor {info.name!r} is {info.type.name}, which is not supported; "
                f"{', '.join(readable.name for readable in _READABLE_TYPES)} are"
            )


def _refuse_rope_scaling(metadata: Fields, architecture: str) -> None:
    kind = metadata.text(f"{architecture}.rope.scaling.type", "none")
    factor = metadata.number(f"{architecture}.rope.scaling.factor", 1.0)
    if kind != "none" and not (kind == "linear" and factor == 1.0):
        raise ModelError(f"{metadata.source}: RoPE scaling {kind!r} is not supported, Llama 3's is")


def _tensors(
    header: GgufHeader, config: DecoderConfig, path: Path, *, rows_are_permuted: bool
) -> dict[str, StoredTensor]:
    heads = {"q": config.heads, "k": config.kv_heads} if rows_are_permuted else {}
    stored = {}
    for info in header.tensors.values():
        if info.name == _ROPE_FACTORS:
            continue
        name = _our_name(info.name)
        projection = name.split("/")[-2] if "/attention/" in name else ""
        stored[name] = StoredTensor(
            shape=info.shape,
            dtype=info.type.name,
            read=functools.partial(_read_in_our_order, path, info, heads.get(projection)),
        )
    return stored


def _read_in_our_order(path: Path, info: TensorInfo, permuted_heads: int | None) -> np.ndarray:
    values = read_tensor(path, info)
    if permuted_heads is None:
        return values
    # [heads, pair, which of the two] back to [heads, which half, pair]
    pairs = values.reshape(permuted_heads, -1, 2, *values.shape[1:])
    return pairs.swapaxes(1, 2).reshape(values.shape)


def _our_name(name: str) -> str:
    if name in _OUTER_NAMES:
        return _OUTER_NAMES[name]
    match name.split(".", 2):
        case ["blk", layer, inner] if layer.isdecimal() and inner in _LAYER_NAMES:
            return f"layers/{layer}/{_LAYER_NAMES[inner]}"
    return name


def _chat_template(metadata: Fields) -> ChatTemplate | None:
    if not metadata.has("tokenizer.chat_template"):
        return None
    return ChatTemplate(
        metadata.text("tokenizer.chat_template"),
        bos_token=gguf_token_text(metadata, "bos"),
        eos_token=gguf_token_text(metadata, "eos"),
    )
