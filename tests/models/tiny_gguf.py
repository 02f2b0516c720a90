"""Writes tiny GGUF files for the tests, with one thing changed at a time."""

import gguf
import gguf.quants
import numpy as np

WIDTH, HEADS, KV_HEADS, HEAD_WIDTH, MLP_WIDTH, LAYERS = 32, 4, 2, 8, 64, 2
TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "a",
    "b",
    "c",
    "ab",
    "abc",
    "Ġ",
    "1",
    "2",
    "Ċ",
]
KINDS = [3, 3, 3] + [1] * 9
TEMPLATE = "{% for m in messages %}{{ eos_token + m['role'] + m['content'] }}{% endfor %}"


def metadata(architecture="llama", **changes):
    """The keys of a valid file. `changes` replace them; None takes one out; __ stands for a dot."""
    keys = {
        "block_count": LAYERS,
        "context_length": 64,
        "embedding_length": WIDTH,
        "feed_forward_length": MLP_WIDTH,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 10_000.0,
    }
    values = {f"{architecture}.{key}": value for key, value in keys.items()}
    values |= {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": KINDS,
        "tokenizer.ggml.merges": ["a b", "ab c"],
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": TEMPLATE,
    }
    values |= {key.replace("__", "."): value for key, value in changes.items()}
    return {key: value for key, value in values.items() if value is not None}


def tensors(architecture="llama", *, tied=True, seed=0):
    """Random float32 weights under llama.cpp's names, in the shapes that `metadata` asks for."""
    random = np.random.default_rng(seed)
    shapes = {
        "attn_norm.weight": (WIDTH,),
        "attn_q.weight": (HEADS * HEAD_WIDTH, WIDTH),
        "attn_k.weight": (KV_HEADS * HEAD_WIDTH, WIDTH),
        "attn_v.weight": (KV_HEADS * HEAD_WIDTH, WIDTH),
        "attn_output.weight": (WIDTH, HEADS * HEAD_WIDTH),
        "ffn_norm.weight": (WIDTH,),
        "ffn_gate.weight": (MLP_WIDTH, WIDTH),
        "ffn_up.weight": (MLP_WIDTH, WIDTH),
        "ffn_down.weight": (WIDTH, MLP_WIDTH),
    }
    if architecture == "qwen2":
        shapes |= {
            "attn_q.bias": (HEADS * HEAD_WIDTH,),
            "attn_k.bias": (KV_HEADS * HEAD_WIDTH,),
            "attn_v.bias": (KV_HEADS * HEAD_WIDTH,),
        }
    if architecture == "qwen3":
        shapes |= {"attn_q_norm.weight": (HEAD_WIDTH,), "attn_k_norm.weight": (HEAD_WIDTH,)}
    named = {"token_embd.weight": (len(TOKENS), WIDTH), "output_norm.weight": (WIDTH,)}
    named |= {f"blk.{i}.{name}": shape for i in range(LAYERS) for name, shape in shapes.items()}
    named |= {} if tied else {"output.weight": (len(TOKENS), WIDTH)}
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in named.items()}


def write(path, architecture="llama", values=None, weights=None, packed=None):
    """Writes a GGUF file. `packed`: {tensor name: (type, bytes [rows, bytes per row])}."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in (metadata(architecture) if values is None else values).items():
        _add(writer, key, value)
    packed = packed or {}
    for name, value in (tensors(architecture) if weights is None else weights).items():
        if name in packed:
            kind, data = packed[name]
            writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType[kind])
        else:
            writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer, key, value):
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case list():
            writer.add_array(key, value)


def packed(weights, kind):
    """Weights quantised as one of the types that the gguf package can write."""
    return gguf.quants.quantize(weights, gguf.GGMLQuantizationType[kind])
