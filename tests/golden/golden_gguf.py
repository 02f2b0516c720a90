"""The tiny models as GGUF files, in llama.cpp's conventions, and llama.cpp's word that they are.

tiny_llama3, tiny_qwen2 and tiny_qwen3 are the folders' weights again, so their golden outputs are
the folders'. tiny_mixed is a Llama whose kernels use all nine tensor types between them; its golden
outputs are transformers' on the values that ggml dequantises.
"""

import dataclasses
import json
import tempfile
from pathlib import Path

import gguf
import golden_ggml
import golden_models
import golden_tokenizer
import llama_cpp
import numpy as np
import torch
from transformers import LlamaConfig, PretrainedConfig

# Hugging Face's names of a layer's tensors -> llama.cpp's.
NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}

# A third layer to the mixed model, and rows of 256 for the K-quants in `ffn_down`.
MIXED_TYPES = {
    "token_embd.weight": "Q8_0",
    "output.weight": "F16",
    "blk.0.attn_q.weight": "F16",
    "blk.0.attn_k.weight": "BF16",
    "blk.0.attn_v.weight": "Q8_0",
    "blk.0.attn_output.weight": "F32",
    "blk.0.ffn_gate.weight": "Q4_0",
    "blk.0.ffn_up.weight": "Q4_1",
    "blk.0.ffn_down.weight": "Q4_K",
    "blk.1.attn_q.weight": "Q8_0",
    "blk.1.attn_k.weight": "Q4_0",
    "blk.1.attn_v.weight": "Q4_1",
    "blk.1.attn_output.weight": "BF16",
    "blk.1.ffn_gate.weight": "Q4_1",
    "blk.1.ffn_up.weight": "Q8_0",
    "blk.1.ffn_down.weight": "Q5_K",
    "blk.2.attn_q.weight": "Q4_1",
    "blk.2.attn_k.weight": "Q8_0",
    "blk.2.attn_v.weight": "F16",
    "blk.2.attn_output.weight": "Q4_0",
    "blk.2.ffn_gate.weight": "Q8_0",
    "blk.2.ffn_up.weight": "Q4_0",
    "blk.2.ffn_down.weight": "Q6_K",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Converted:
    """A model on its way into a GGUF file."""

    name: str
    config: PretrainedConfig
    pre: str
    tensors: dict[str, np.ndarray]  # by llama.cpp's names, float32
    types: dict[str, str]  # F32 where it is silent


def permuted(kernel: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k [heads * head_width, in] as arch `llama` stores them.

    Hugging Face rotates row i with row i + head_width / 2, llama.cpp's arch `llama` with its
    neighbour, so each head's two halves are interleaved.
    """
    return kernel.reshape(heads, 2, -1, kernel.shape[1]).swapaxes(1, 2).reshape(kernel.shape)


def llama_cpp_name(name: str) -> str:
    """A transformers parameter's name in a GGUF file."""
    if not name.startswith("model.layers."):
        return {
            "model.embed_tokens.weight": "token_embd.weight",
            "model.norm.weight": "output_norm.weight",
            "lm_head.weight": "output.weight",
        }[name]
    layer, rest = name.removeprefix("model.layers.").split(".", 1)
    stem, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{NAMES[stem]}.{kind}"


def tensors_of(model: torch.nn.Module, config: PretrainedConfig) -> dict[str, np.ndarray]:
    """A transformers model's weights under llama.cpp's names, q and k permuted where it does so."""
    tensors = {}
    for name, leaf in model.named_parameters():
        value = leaf.detach().numpy()
        if config.model_type == "llama" and "q_proj" in name:
            value = permuted(value, config.num_attention_heads)
        if config.model_type == "llama" and "k_proj" in name:
            value = permuted(value, config.num_key_value_heads)
        tensors[llama_cpp_name(name)] = value
    if config.rope_parameters["rope_type"] == "llama3":
        tensors["rope_freqs.weight"] = rope_factors(model, config)
    return tensors


def rope_factors(model: torch.nn.Module, config: PretrainedConfig) -> np.ndarray:
    """What llama.cpp divides each rotary frequency by: plain / stretched, by transformers."""
    stretched = model.model.rotary_emb.inv_freq
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    plain = 1.0 / config.rope_parameters["rope_theta"] ** exponents
    return (plain / stretched).numpy().astype(np.float32)


def write(converted: Converted, path: Path) -> None:
    """Write the GGUF file: hyperparameters, tokeniser, tensors."""
    config = converted.config
    writer = gguf.GGUFWriter(path, config.model_type)
    writer.add_name(converted.name)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    head_width = getattr(config, "head_dim", None)
    if head_width and head_width * config.num_attention_heads != config.hidden_size:
        writer.add_key_length(head_width)
        writer.add_value_length(head_width)
    if config.model_type == "llama":
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(
            head_width or config.hidden_size // config.num_attention_heads
        )
    add_tokenizer(writer, converted.pre)
    for name, value in converted.tensors.items():
        type_name = converted.types.get(name, "F32") if value.ndim == 2 else "F32"
        if type_name == "F32":
            writer.add_tensor(name, value)
        else:
            packed = golden_ggml.quantize(value, type_name)
            writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType[type_name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tokenizer(writer: gguf.GGUFWriter, pre: str) -> None:
    """The tiny tokeniser as llama.cpp's converter writes one."""
    model = json.loads(golden_tokenizer.train(pre).to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    special = golden_tokenizer.SPECIAL_TOKENS
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if t in special else gguf.TokenType.NORMAL for t in tokens]
    )
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(golden_tokenizer.CHAT_TEMPLATE)


def llama_cpp_logits(path: Path, prompt: np.ndarray) -> np.ndarray:
    """float32 [tokens, vocab] by llama.cpp, with a float32 KV cache."""
    model = llama_cpp.Llama(
        str(path),
        n_ctx=256,
        n_threads=2,
        logits_all=True,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
        flash_attn=False,
        verbose=False,
    )
    model.eval(prompt.tolist())
    return np.array(model.scores[: len(prompt)])


def check(path: Path, golden: dict[str, np.ndarray], tolerance: float) -> None:
    """llama.cpp's logits on the file are within `tolerance` (rms) of the golden ones."""
    for prompt, logits in (("prompt_0", "logits_0"), ("long_prompt", "long_logits")):
        theirs = llama_cpp_logits(path, golden[prompt])
        difference = theirs[-len(golden[logits]) :] - golden[logits]
        rms = float(np.sqrt(np.mean(difference**2)))
        most = np.abs(difference).max()
        print(f"{path.name}: llama.cpp is {rms:.1e} away (rms), {most:.1e} at most")
        assert rms < tolerance, f"{path.name}: llama.cpp's logits are {rms} away"


def make_converted(out: Path) -> None:
    """Three folders' weights as GGUF files, whose golden outputs are the folders'."""
    types = {"tiny_llama3": "F16", "tiny_qwen2": "F16", "tiny_qwen3": "BF16"}
    for seed, tiny in enumerate(golden_models.tiny_models()):
        if tiny.name not in types:
            continue
        tensors = tensors_of(
            golden_models.random_model(tiny.config, seed, tiny.values), tiny.config
        )
        converted = Converted(
            name=tiny.name, config=tiny.config, pre=tiny.pre, tensors=tensors, types={}
        )
        golden = dict(np.load(out / f"{tiny.name}.npz"))
        with tempfile.TemporaryDirectory() as folder:
            # In float32 llama.cpp computes what we do: this checks names, order and RoPE sharply.
            exact = Path(folder) / f"{tiny.name}_f32.gguf"
            write(converted, exact)
            check(exact, golden, tolerance=1e-5)
        path = out / f"{tiny.name}.gguf"
        write(
            dataclasses.replace(converted, types=dict.fromkeys(tensors, types[tiny.name])),
            path,
        )
        # It rounds the activations to the kernels' 16 bits before it multiplies, which we do not.
        check(path, golden, tolerance={"F16": 1e-2, "BF16": 0.1}[types[tiny.name]])


def make_mixed(out: Path) -> None:
    """tiny_mixed.gguf, and tiny_mixed.npz: transformers' outputs on ggml's dequantised values."""
    sizes = {
        "num_hidden_layers": 3,
        "intermediate_size": 256,
    }  # a K-quant's row is a multiple of 256
    config = LlamaConfig(
        **golden_models.COMMON | sizes,
        num_key_value_heads=2,
        tie_word_embeddings=False,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
    )
    model = golden_models.random_model(config, 10, torch.float32)
    tensors = tensors_of(model, config)
    path = out / "tiny_mixed.gguf"
    write(
        Converted(name=path.stem, config=config, pre="smollm", tensors=tensors, types=MIXED_TYPES),
        path,
    )
    used = {MIXED_TYPES.get(name, "F32") for name in tensors}
    assert used == set(golden_ggml.TYPES), f"not every type is used: {used}"
    for name, leaf in model.named_parameters():
        type_name = MIXED_TYPES.get(llama_cpp_name(name), "F32")
        if leaf.ndim == 2:
            # Blocks lie within rows, so the order of the rows (permuted or not) is no matter.
            packed = golden_ggml.quantize(leaf.detach().numpy(), type_name)
            values = golden_ggml.checked_dequantize(packed, type_name, leaf.shape[1])
            leaf.data.copy_(torch.from_numpy(values))
    tokenizer = golden_tokenizer.train("smollm")
    golden = golden_models.outputs(model, [tokenizer.encode(t).ids for t in golden_models.PROMPTS])
    np.savez(out / "tiny_mixed.npz", **golden)
    # llama.cpp rounds the activations to 8 bits before it multiplies, which we do not.
    check(path, golden, tolerance=0.4)


def make(out: Path) -> None:
    """Write the four GGUF files (after golden_models.make)."""
    make_converted(out)
    make_mixed(out)
