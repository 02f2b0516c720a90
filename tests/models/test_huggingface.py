"""Hugging Face folders: files, dtypes, configs, refusals. About 5 seconds."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import tokenizers

from models.checkpoint import open_checkpoint
from models.config import RopeScaling
from models.errors import ModelError
from models.shapes import weight_shapes
from models.weights import load_weights

CONFIG = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 10,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "eos_token_id": 7,
}
LAYER = {
    "input_layernorm.weight": (16,),
    "self_attn.q_proj.weight": (16, 16),
    "self_attn.k_proj.weight": (8, 16),
    "self_attn.v_proj.weight": (8, 16),
    "self_attn.o_proj.weight": (16, 16),
    "post_attention_layernorm.weight": (16,),
    "mlp.gate_proj.weight": (24, 16),
    "mlp.up_proj.weight": (24, 16),
    "mlp.down_proj.weight": (16, 24),
}


def tensors(**more):
    shapes = {"model.embed_tokens.weight": (10, 16), "model.norm.weight": (16,)}
    for layer in range(2):
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in LAYER.items()}
    random = np.random.default_rng(0)
    made = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return made | more


def write(folder, weights=None, **changes):
    """A folder of one safetensors file. `changes` to the config; None takes a key out."""
    config = {key: value for key, value in (CONFIG | changes).items() if value is not None}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    safetensors.numpy.save_file(
        tensors() if weights is None else weights, folder / "model.safetensors"
    )
    return folder


def write_sharded(folder, weight_map=None):
    """The same in two files with an index."""
    write(folder)
    (folder / "model.safetensors").unlink()
    names = sorted(tensors())
    shards = {"model-1.safetensors": names[:9], "model-2.safetensors": names[9:]}
    for file, held in shards.items():
        safetensors.numpy.save_file({name: tensors()[name] for name in held}, folder / file)
    weight_map = weight_map or {name: file for file, held in shards.items() for name in held}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


@pytest.mark.newest
def test_a_folder_of_one_file(tmp_path):
    checkpoint = open_checkpoint(write(tmp_path / "my-model"))
    config = checkpoint.config
    assert checkpoint.name == "my-model"
    assert (config.layers, config.width, config.heads, config.kv_heads) == (2, 16, 4, 2)
    assert (config.head_width, config.mlp_width, config.max_context) == (4, 24, 128)
    assert (config.vocab_size, config.norm_epsilon, config.rope_theta) == (10, 1e-5, 10_000)
    assert config.tied_embeddings
    assert not config.attention_bias
    assert not config.qk_norm
    assert config.rope_scaling is None
    weights = tensors()
    for name, shape in weight_shapes(config).items():
        assert checkpoint.read(name).shape == shape
    for ours, theirs in (
        ("embedding/weight", "model.embed_tokens.weight"),
        ("norm/scale", "model.norm.weight"),
        ("layers/1/attention_norm/scale", "model.layers.1.input_layernorm.weight"),
        ("layers/1/attention/q/kernel", "model.layers.1.self_attn.q_proj.weight"),
        ("layers/1/attention/o/kernel", "model.layers.1.self_attn.o_proj.weight"),
        ("layers/0/mlp_norm/scale", "model.layers.0.post_attention_layernorm.weight"),
        ("layers/0/mlp/gate/kernel", "model.layers.0.mlp.gate_proj.weight"),
        ("layers/0/mlp/down/kernel", "model.layers.0.mlp.down_proj.weight"),
    ):
        np.testing.assert_array_equal(checkpoint.read(ours), weights[theirs])


@pytest.mark.newest
@pytest.mark.parametrize(
    ("stored", "name"), [(np.float32, "F32"), (np.float16, "F16"), (ml_dtypes.bfloat16, "BF16")]
)
def test_float_types(tmp_path, stored, name):
    weights = {key: value.astype(stored) for key, value in tensors().items()}
    checkpoint = open_checkpoint(write(tmp_path, weights))
    assert set(checkpoint.stored_dtypes.values()) == {name}
    expected = weights["model.layers.0.mlp.up_proj.weight"].astype(np.float32)
    up = load_weights(checkpoint)["layers"][0]["mlp"]["up"]["kernel"]
    np.testing.assert_array_equal(up, expected)
    half = load_weights(checkpoint, "bfloat16")["layers"][0]["mlp"]["up"]["kernel"]
    np.testing.assert_array_equal(np.asarray(half), expected.astype(ml_dtypes.bfloat16))


def test_a_folder_of_several_files(tmp_path):
    one, several = open_checkpoint(write(tmp_path / "a")), write_sharded(tmp_path / "b")
    for name in one.tensor_names:
        np.testing.assert_array_equal(open_checkpoint(several).read(name), one.read(name))


def test_an_untied_head(tmp_path):
    head = np.ones((10, 16), np.float32)
    weights = tensors(**{"lm_head.weight": head})
    untied = open_checkpoint(write(tmp_path, weights, tie_word_embeddings=False))
    np.testing.assert_array_equal(untied.read("head/kernel"), head)
    # Left out of the config, the files say it.
    assert not open_checkpoint(
        write(tmp_path, weights, tie_word_embeddings=None)
    ).config.tied_embeddings
    assert open_checkpoint(write(tmp_path, tie_word_embeddings=None)).config.tied_embeddings
    # Some tied files hold the embedding twice, and old ones a table of frequencies.
    inverse = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2, np.float32)}
    twice = open_checkpoint(write(tmp_path, weights | inverse))
    assert twice.config.tied_embeddings
    assert "head/kernel" not in twice.tensor_names


def test_qwen2_and_qwen3(tmp_path):
    biases, norms = {}, {}
    for layer in range(2):
        prefix = f"model.layers.{layer}.self_attn"
        biases |= {
            f"{prefix}.{name}_proj.bias": np.full(width, layer + 1, np.float32)
            for name, width in (("q", 16), ("k", 8), ("v", 8))
        }
        norms |= {f"{prefix}.{name}_norm.weight": np.ones(4, np.float32) for name in "qk"}
    qwen2 = open_checkpoint(
        write(
            tmp_path / "2",
            tensors(**biases),
            model_type="qwen2",
            use_sliding_window=False,
            sliding_window=4096,
            layer_types=["full_attention"] * 2,
        )
    )
    assert qwen2.config.attention_bias
    assert qwen2.read("layers/1/attention/v/bias").tolist() == [2] * 8
    qwen3 = open_checkpoint(write(tmp_path / "3", tensors(**norms), model_type="qwen3", head_dim=4))
    assert qwen3.config.qk_norm
    assert qwen3.read("layers/1/attention/k_norm/scale").tolist() == [1] * 4


LLAMA3 = {
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def test_rope(tmp_path):
    rule = RopeScaling(
        factor=32.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_context=8192
    )
    scaling = {**LLAMA3, "rope_type": "llama3"}
    assert open_checkpoint(write(tmp_path, rope_scaling=scaling)).config.rope_scaling == rule
    newer = write(tmp_path, rope_theta=None, rope_parameters={**scaling, "rope_theta": 5e5})
    assert open_checkpoint(newer).config.rope_scaling == rule
    assert open_checkpoint(newer).config.rope_theta == 5e5
    for plain in (None, {"type": "default"}, {"rope_type": "default"}):
        assert open_checkpoint(write(tmp_path, rope_scaling=plain)).config.rope_scaling is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2' is not supported, llama, qwen2, qwen3, "),
        ({"model_type": None}, "model_type is missing"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
        ({"attention_bias": True}, "attention_bias is true, which is not supported"),
        ({"mlp_bias": True}, "mlp_bias is true"),
        ({"use_sliding_window": True}, "use_sliding_window is true"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layers of sliding_attention"),
        ({"quantization_config": {"bits": 4}}, "quantized weights are not supported here"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor of 1 is supported"),
        ({"rope_scaling": {"type": "longrope"}}, "RoPE scaling 'longrope' is not supported"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "RoPE scaling 'dynamic'"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "rope_scaling: factor is missing"),
        ({"rope_scaling": {**LLAMA3, "rope_type": "llama3", "factor": 0}}, "must have factor >= 1"),
        ({"rope_parameters": {"full_attention": {}}}, "one RoPE for each kind of layer"),
        ({"hidden_size": "16"}, "hidden_size must be a whole number, not '16'"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"num_hidden_layers": 0}, "layers must be at least 1"),
        ({"num_hidden_layers": -1}, "must be between 0 and"),
        ({"num_hidden_layers": 3}, r"layers/2/attention/k/kernel \(and 8 more\) are missing"),
        ({"num_hidden_layers": 1}, r"\(and 8 more\) are not known to this architecture"),
        ({"num_hidden_layers": 2**31}, "20 tensors cannot make 2147483648 layers"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps must be a finite number"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings must be true or false"),
        ({"tie_word_embeddings": False}, "tensor head/kernel is missing"),
        ({"vocab_size": 11}, r"embedding/weight is \[10, 16\]; the config asks for \[11, 16\]"),
    ],
)
def test_configs_that_are_refused(tmp_path, changes, message):
    folder = write(tmp_path / "model", **changes)
    with pytest.raises(ModelError, match=message) as refusal:
        open_checkpoint(folder)
    assert str(refusal.value).startswith(str(folder))
    assert "\n" not in str(refusal.value)


def test_tensors_that_are_refused(tmp_path):
    missing = {key: value for key, value in tensors().items() if "1.mlp.up" not in key}
    for weights, message in (
        (missing, "tensor layers/1/mlp/up/kernel is missing"),
        (tensors(**{"model.layers.0.extra": np.ones(3)}), "extra is F64, which is not supported"),
        (tensors(**{"lm_head.bias": np.ones(3, np.float32)}), "lm_head.bias is not known"),
        (tensors(**{"model.norm.weight": np.ones(3, np.float32)}), r"norm/scale is \[3\]"),
    ):
        with pytest.raises(ModelError, match=message):
            open_checkpoint(write(tmp_path, weights))
    nan = write(tmp_path, tensors(**{"model.norm.weight": np.full(16, np.nan, np.float32)}))
    with pytest.raises(ModelError, match="norm/scale holds values that are not finite"):
        load_weights(open_checkpoint(nan))


def test_safetensors_that_are_damaged(tmp_path):
    file = write(tmp_path) / "model.safetensors"
    whole = file.read_bytes()
    for content in (b"", whole[:4], whole[:300], whole[:-1], whole + b"x", b"\xff" * 8 + whole[8:]):
        file.write_bytes(content)
        with pytest.raises(ModelError, match=r"model\.safetensors: not a whole safetensors file"):
            open_checkpoint(tmp_path)
    file.unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors: no such file"):
        open_checkpoint(tmp_path)


def test_files_that_go_or_shrink_after_opening(tmp_path):
    folder = write(tmp_path)
    checkpoint, file = open_checkpoint(folder), folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ModelError, match="not a whole safetensors file"):
        checkpoint.read("norm/scale")
    write(tmp_path, tensors(**{"model.norm.weight": np.ones(3, np.float32)}))
    with pytest.raises(ModelError, match=r"norm/scale is \(3,\), not \(16,\)"):
        checkpoint.read("norm/scale")


def test_an_index_that_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"must lie in a file of this folder: '\.\./x'"):
        open_checkpoint(write_sharded(tmp_path, {"a": "../x"}))
    with pytest.raises(ModelError, match=r"model-3\.safetensors: no such file"):
        open_checkpoint(write_sharded(tmp_path, {"a": "model-3.safetensors"}))
    with pytest.raises(ModelError, match=r"is not in model\.safetensors\.index\.json"):
        open_checkpoint(write_sharded(tmp_path, {"a": "model-1.safetensors"}))
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ModelError, match="weight_map is missing or empty"):
        open_checkpoint(tmp_path)


def test_config_files_that_are_no_json(tmp_path):
    with pytest.raises(ModelError, match=r"config\.json: no such file"):
        open_checkpoint(tmp_path)
    file = write(tmp_path) / "config.json"
    for content, message in (
        (b"", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[1]", "must be a JSON object"),
        (b"\xff", "cannot be read"),
    ):
        file.write_bytes(content)
        with pytest.raises(ModelError, match=message):
            open_checkpoint(tmp_path)


def with_tokenizer(folder):
    write(folder)
    words = {"a": 0, "b": 1, "<s>": 2, "</s>": 3, "<eot>": 4}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=words, merges=[]))
    backend.add_special_tokens(["<s>", "</s>", "<eot>"])
    backend.save(str(folder / "tokenizer.json"))
    return folder


def test_where_a_text_ends(tmp_path):
    folder = with_tokenizer(tmp_path)
    assert open_checkpoint(folder).tokenizer.eos_ids == {7}  # config.json
    # generation_config.json knows better, and the tokeniser's own end counts as well.
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [4, 9]}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "</s>"}}))
    assert open_checkpoint(folder).tokenizer.eos_ids == {3, 4, 9}
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": "x"}))
    with pytest.raises(ModelError, match="eos_token_id must be a whole number"):
        open_checkpoint(folder).tokenizer.encode("a")


def test_without_a_tokenizer_the_weights_still_load(tmp_path):
    checkpoint = open_checkpoint(write(tmp_path))
    assert load_weights(checkpoint)["norm"]["scale"].shape == (16,)
    assert checkpoint.chat_template is None
    with pytest.raises(ModelError, match=r"tokenizer\.json: cannot be read"):
        checkpoint.tokenizer.encode("a")


def test_where_the_chat_template_lies(tmp_path):
    folder = with_tokenizer(tmp_path)
    settings = {"bos_token": "<s>", "chat_template": "{{ bos_token }}{{ messages[0].content }}"}
    file = folder / "tokenizer_config.json"
    messages = [{"role": "user", "content": "hi"}]

    def rendered():
        return open_checkpoint(folder).chat_template.render(messages)

    file.write_text(json.dumps(settings))
    assert rendered() == "<s>hi"
    named = [{"name": "tools", "template": "no"}, {"name": "default", "template": "yes"}]
    file.write_text(json.dumps({**settings, "chat_template": named}))
    assert rendered() == "yes"
    (folder / "chat_template.jinja").write_text("file {{ bos_token }}")
    assert rendered() == "file <s>"
    (folder / "chat_template.jinja").write_text("{% broken")
    with pytest.raises(ModelError, match="chat template: not valid Jinja"):
        open_checkpoint(folder)
    (folder / "chat_template.jinja").unlink()
    file.write_text(json.dumps({"chat_template": 5}))
    with pytest.raises(ModelError, match="chat_template must be a string"):
        open_checkpoint(folder)


def test_the_name_of_a_folder_in_the_hub_cache(tmp_path):
    folder = tmp_path / "models--owner--some-model" / "snapshots" / "0123abc"
    folder.parent.mkdir(parents=True)
    assert open_checkpoint(write(folder)).name == "owner/some-model"
