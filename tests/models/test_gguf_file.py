"""GGUF files: tensor types by hand and by ggml, names, orders, refusals. About 5 seconds."""

import struct
from pathlib import Path

import gguf
import gguf.quants
import numpy as np
import pytest
import tiny_gguf

from models.checkpoint import open_checkpoint
from models.config import RopeScaling
from models.errors import ModelError
from models.gguf_file import read_tensor
from models.gguf_header import TensorInfo
from models.rope import inverse_frequencies
from models.shapes import weight_shapes

GOLDEN = Path(__file__).parent.parent / "golden"
GGML_TYPES = ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q5_K", "Q6_K"]


def dequantised(tmp_path, type_name, packed, values=256):
    """What `read_tensor` makes of the bytes of one row."""
    path = tmp_path / "blocks"
    path.write_bytes(b"head" + bytes(packed))
    tensor = TensorInfo(
        name="t",
        shape=(1, values),
        type=gguf.GGMLQuantizationType[type_name],
        start_bytes=4,
        size_bytes=len(packed),
    )
    return read_tensor(path, tensor)[0]


def half(value):
    return struct.pack("<e", value)


@pytest.mark.newest
def test_float_types(tmp_path):
    assert dequantised(tmp_path, "F32", struct.pack("<2f", 1.5, -3), 2).tolist() == [1.5, -3]
    assert dequantised(tmp_path, "F16", half(0.25) + half(-2), 2).tolist() == [0.25, -2]
    # bfloat16 is the upper half of a float32.
    upper = struct.pack("<f", -6.5)[2:] + struct.pack("<f", 1.0)[2:]
    assert dequantised(tmp_path, "BF16", upper, 2).tolist() == [-6.5, 1.0]


def test_blocks_of_32(tmp_path):
    # Byte j of the nibbles holds value j low and value j + 16 high.
    nibbles = bytes([0x90 + j for j in range(16)])  # low 0..15, high 9
    low, high = np.arange(16), np.full(16, 9)
    # Q8_0: scale, 32 x int8.
    eights = np.arange(-16, 16, dtype=np.int8)
    assert_equal(dequantised(tmp_path, "Q8_0", half(0.5) + eights.tobytes(), 32), 0.5 * eights)
    # Q4_0: scale, nibbles; value = scale * (nibble - 8).
    expected = 2.0 * (np.concatenate([low, high]) - 8)
    assert_equal(dequantised(tmp_path, "Q4_0", half(2.0) + nibbles, 32), expected)
    # Q4_1: scale, minimum, nibbles; value = scale * nibble + minimum.
    expected = 2.0 * np.concatenate([low, high]) - 3
    assert_equal(dequantised(tmp_path, "Q4_1", half(2.0) + half(-3) + nibbles, 32), expected)
    # Q5_0: scale, 32 fifth bits, nibbles; value = scale * (nibble + 16 * bit - 16).
    fifth = struct.pack("<I", 1 << 0 | 1 << 17)  # of value 0 and of value 17
    expected = 2.0 * (np.concatenate([low, high]) - 16)
    expected[[0, 17]] += 2.0 * 16
    assert_equal(dequantised(tmp_path, "Q5_0", half(2.0) + fifth + nibbles, 32), expected)


def scales_of_k(scales, minima):
    """12 bytes with eight 6-bit scales and minima, as Q4_K and Q5_K pack them."""
    packed = [scales[j] | scales[j + 4] >> 4 << 6 for j in range(4)]
    packed += [minima[j] | minima[j + 4] >> 4 << 6 for j in range(4)]
    packed += [scales[j + 4] & 15 | (minima[j + 4] & 15) << 4 for j in range(4)]
    return bytes(packed)


SCALES, MINIMA = [1, 2, 3, 4, 5, 21, 38, 63], [0, 1, 2, 3, 4, 20, 37, 62]


def test_q4_k_by_hand(tmp_path):
    # Eight groups of 32: value = 0.5 * scale * nibble - 0.25 * minimum. Groups 2i and 2i+1 are the
    # low and the high nibbles of the i-th 32 bytes: 7 and 11 everywhere here.
    packed = half(0.5) + half(0.25) + scales_of_k(SCALES, MINIMA) + bytes([0xB7] * 128)
    groups = dequantised(tmp_path, "Q4_K", packed).reshape(8, 32)
    for group in range(8):
        nibble = 11 if group % 2 else 7
        expected = 0.5 * SCALES[group] * nibble - 0.25 * MINIMA[group]
        assert_equal(groups[group], np.full(32, expected))


def test_q5_k_by_hand(tmp_path):
    # As Q4_K, plus 16 where bit g of the j-th of 32 bytes is set, for value j of group g.
    fifth = bytes([0b10000001] + [0] * 31)  # value 0 of groups 0 and 7
    packed = half(0.5) + half(0.25) + scales_of_k(SCALES, MINIMA) + fifth + bytes([0xB7] * 128)
    groups = dequantised(tmp_path, "Q5_K", packed).reshape(8, 32)
    for group in range(8):
        nibbles = np.full(32, 11 if group % 2 else 7)
        nibbles[0] += 16 if group in (0, 7) else 0
        assert_equal(groups[group], 0.5 * SCALES[group] * nibbles - 0.25 * MINIMA[group])


def test_q6_k_by_hand(tmp_path):
    # Two halves of 128: 64 bytes of nibbles and 32 of upper bit pairs each, then sixteen int8
    # scales and one half scale: value = 0.5 * scale * (nibble + 16 * pair - 32).
    # The four 32s of a half: low j, low j + 32, high j, high j + 32; pairs from bit 0 up.
    low_bits = bytes([0x53] * 32 + [0x64] * 32)  # nibbles 3, 4, 5, 6
    pairs = bytes([0b11_10_01_00] * 32)  # pairs 0, 1, 2, 3
    scales = np.arange(-8, 8, dtype=np.int8)  # one for each 16 values
    packed = low_bits * 2 + pairs * 2 + scales.tobytes() + half(0.5)
    quants = np.repeat([3, 4 + 16, 5 + 32, 6 + 48] * 2, 32) - 32
    expected = 0.5 * np.repeat(scales, 16) * quants
    assert_equal(dequantised(tmp_path, "Q6_K", packed), expected)


@pytest.mark.parametrize("type_name", GGML_TYPES)
def test_blocks_as_ggml_dequantises_them(tmp_path, type_name):
    golden = np.load(GOLDEN / "quant_blocks.npz")
    for packed, values in zip(
        golden[f"{type_name}_packed"], golden[f"{type_name}_values"], strict=True
    ):
        found = dequantised(tmp_path, type_name, packed.tobytes())
        np.testing.assert_allclose(found.astype(np.float32), values, rtol=1e-6, atol=1e-7)


def test_a_large_tensor_comes_out_piece_by_piece(tmp_path):
    # More values than are dequantised at a time, and no multiple of them.
    weights = np.random.default_rng(0).normal(size=(4099, 96)).astype(np.float32)
    packed = gguf.quants.quantize(weights, gguf.GGMLQuantizationType.Q8_0)
    assert weights.size > 3 * 2**17
    found = dequantised(tmp_path, "Q8_0", packed.tobytes(), weights.size).reshape(weights.shape)
    largest = np.abs(weights.reshape(-1, 32)).max(axis=1).repeat(32).reshape(weights.shape)
    # Half a step of 1/127 of the block's largest, and the scale's own rounding to a half.
    assert (np.abs(found - weights) <= largest * (0.5 / 127 + 2**-10)).all()


def assert_equal(found, expected):
    np.testing.assert_array_equal(found, np.asarray(expected, np.float32))


@pytest.mark.parametrize("type_name", ["Q5_1", "Q2_K", "IQ4_NL", "I8"])
def test_other_tensor_types_are_refused_by_name(tmp_path, type_name):
    block_values, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[type_name]]
    rows, row_values = (1, 256) if block_values == 256 else (32, 64)
    data = np.zeros((rows, row_values // block_values * block_bytes), np.uint8)
    data = data.view(np.int8) if type_name == "I8" else data
    path = tiny_gguf.write(
        tmp_path / "tiny.gguf", packed={"blk.1.ffn_down.weight": (type_name, data)}
    )
    with pytest.raises(ModelError, match=f"'blk.1.ffn_down.weight' is {type_name}, which is not"):
        open_checkpoint(path)


@pytest.mark.parametrize("architecture", ["gemma", "llama4", "qwen2moe", "phi3"])
def test_other_architectures_are_refused_by_name(tmp_path, architecture):
    path = tiny_gguf.write(tmp_path / "tiny.gguf", architecture)
    with pytest.raises(ModelError, match=f"architecture '{architecture}' is not supported"):
        open_checkpoint(path)


def llama_cpp_order(rows, heads):
    """Rows [heads, half, pair] laid out as [heads, pair, half], one by one."""
    head_width = len(rows) // heads
    order = [
        head * head_width + half * head_width // 2 + pair
        for head in range(heads)
        for pair in range(head_width // 2)
        for half in range(2)
    ]
    return rows[order]


def test_llama_rows_of_q_and_k_are_put_back(tmp_path):
    weights = tiny_gguf.tensors()
    stored = dict(weights)
    for layer in range(2):
        for name, heads in (("q", 4), ("k", 2)):
            key = f"blk.{layer}.attn_{name}.weight"
            stored[key] = llama_cpp_order(weights[key], heads)
    checkpoint = open_checkpoint(tiny_gguf.write(tmp_path / "tiny.gguf", weights=stored))
    assert not np.array_equal(stored["blk.1.attn_k.weight"], weights["blk.1.attn_k.weight"])
    assert_equal(checkpoint.read("layers/1/attention/q/kernel"), weights["blk.1.attn_q.weight"])
    assert_equal(checkpoint.read("layers/1/attention/k/kernel"), weights["blk.1.attn_k.weight"])
    assert_equal(checkpoint.read("layers/1/attention/v/kernel"), weights["blk.1.attn_v.weight"])


def test_llama_biases_are_put_back_too(tmp_path):
    weights = tiny_gguf.tensors("qwen2")  # a Llama with biases, as some fine-tunes have
    stored = dict(weights)
    for layer in range(2):
        for name, heads in (("q", 4), ("k", 2)):
            for kind in ("weight", "bias"):
                key = f"blk.{layer}.attn_{name}.{kind}"
                stored[key] = llama_cpp_order(weights[key], heads)
    checkpoint = open_checkpoint(tiny_gguf.write(tmp_path / "tiny.gguf", weights=stored))
    assert checkpoint.config.attention_bias
    assert_equal(checkpoint.read("layers/0/attention/q/bias"), weights["blk.0.attn_q.bias"])
    assert_equal(checkpoint.read("layers/0/attention/k/bias"), weights["blk.0.attn_k.bias"])


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
def test_qwen_rows_are_as_they_were(tmp_path, architecture):
    weights = tiny_gguf.tensors(architecture)
    checkpoint = open_checkpoint(tiny_gguf.write(tmp_path / "tiny.gguf", architecture))
    assert checkpoint.config.attention_bias == (architecture == "qwen2")
    assert checkpoint.config.qk_norm == (architecture == "qwen3")
    assert_equal(checkpoint.read("layers/1/attention/q/kernel"), weights["blk.1.attn_q.weight"])
    if architecture == "qwen2":
        assert_equal(checkpoint.read("layers/1/attention/v/bias"), weights["blk.1.attn_v.bias"])
    else:
        found = checkpoint.read("layers/1/attention/q_norm/scale")
        assert_equal(found, weights["blk.1.attn_q_norm.weight"])


def test_config_and_names(tmp_path):
    checkpoint = open_checkpoint(tiny_gguf.write(tmp_path / "tiny-model.gguf"))
    config = checkpoint.config
    assert checkpoint.name == "tiny-model"
    assert (config.vocab_size, config.layers, config.width) == (12, 2, 32)
    assert (config.heads, config.kv_heads, config.head_width) == (4, 2, 8)
    assert (config.mlp_width, config.max_context) == (64, 64)
    assert config.rope_theta == 10_000
    assert config.norm_epsilon == pytest.approx(1e-5)
    assert checkpoint.tensor_names == tuple(weight_shapes(config))
    assert set(checkpoint.stored_dtypes.values()) == {"F32"}
    for name, shape in weight_shapes(config).items():
        assert checkpoint.read(name).shape == shape
    assert checkpoint.chat_template.render([{"role": "u", "content": "x"}]) == "<|im_end|>ux"


def test_embeddings_are_tied_when_there_is_no_output_matrix(tmp_path):
    tied = open_checkpoint(tiny_gguf.write(tmp_path / "tied.gguf"))
    assert tied.config.tied_embeddings
    assert "head/kernel" not in tied.tensor_names
    weights = tiny_gguf.tensors(tied=False)
    untied = open_checkpoint(tiny_gguf.write(tmp_path / "untied.gguf", weights=weights))
    assert not untied.config.tied_embeddings
    assert_equal(untied.read("head/kernel"), weights["output.weight"])


def rope_divisors(scaling, theta=500_000.0, pairs=4):
    """Llama 3's rule, one wavelength at a time, as its paper and reference code have it."""
    divisors = []
    for pair in range(pairs):
        wavelength = 2 * np.pi * theta ** (pair / pairs)
        if wavelength < scaling.original_context / scaling.high_frequency_factor:
            divisors.append(1.0)
        elif wavelength > scaling.original_context / scaling.low_frequency_factor:
            divisors.append(scaling.factor)
        else:
            span = scaling.high_frequency_factor - scaling.low_frequency_factor
            turns = scaling.original_context / wavelength
            smooth = (turns - scaling.low_frequency_factor) / span
            divisors.append(1 / ((1 - smooth) / scaling.factor + smooth))
    return np.array(divisors, np.float32)


@pytest.mark.parametrize("original_context", [8192, 1024, 100])
def test_llama3_rope_scaling_is_found_from_its_divisors(tmp_path, original_context):
    rule = RopeScaling(
        factor=32.0,
        low_frequency_factor=1.0,
        high_frequency_factor=4.0,
        original_context=original_context,
    )
    divisors = rope_divisors(rule)
    assert 1.0 in divisors
    assert 32.0 in divisors
    values = tiny_gguf.metadata(llama__rope__freq_base=500_000.0)
    weights = {**tiny_gguf.tensors(), "rope_freqs.weight": divisors}
    config = open_checkpoint(
        tiny_gguf.write(tmp_path / "tiny.gguf", values=values, weights=weights)
    ).config
    plain = 1 / 500_000.0 ** (np.arange(4) / 4)
    np.testing.assert_allclose(inverse_frequencies(config.rope), plain / divisors, rtol=1e-5)


def test_other_rope_divisors_are_refused(tmp_path):
    for divisors in ([1, 2, 3, 4], [1, 1, np.nan, 8], [0.5, 1, 1, 8], [1, 1, 8]):
        weights = {**tiny_gguf.tensors(), "rope_freqs.weight": np.array(divisors, np.float32)}
        path = tiny_gguf.write(tmp_path / "tiny.gguf", weights=weights)
        with pytest.raises(ModelError, match="does not follow Llama 3's RoPE scaling"):
            open_checkpoint(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"llama__rope__scaling__type": "yarn"}, "RoPE scaling 'yarn' is not supported"),
        ({"llama__expert_count": 8}, "llama.expert_count is not 0"),
        ({"llama__attention__sliding_window": 4096}, "sliding_window is not 0"),
        ({"llama__attention__causal": False}, "attention.causal is false"),
        ({"llama__logit_scale": 0.5}, "llama.logit_scale is a feature that is not supported"),
        ({"llama__rope__dimension_count": 4}, r"but only the head width \(8\) is supported"),
        ({"llama__attention__value_length": 16}, r"but only the head width \(8\) is supported"),
        ({"llama__vocab_size": 13}, "vocab_size is 13, but the file has 12 tokens"),
        ({"llama__block_count": None}, "llama.block_count is missing"),
        ({"llama__block_count": "two"}, "block_count must be a whole number, not 'two'"),
        ({"llama__block_count": 1}, "not known to this architecture"),
        ({"llama__block_count": 3}, r"layers/2/attention/k/kernel \(and 8 more\) are missing"),
        ({"llama__block_count": 2**31}, "20 tensors cannot make 2147483648 layers"),
        ({"llama__block_count": 2**32 - 1}, "block_count must be between 0 and 2147483648"),
        ({"llama__attention__head_count": 0}, "heads must be at least 1, not 0"),
        ({"llama__attention__head_count_kv": 3}, r"must be a multiple of kv_heads \(3\)"),
        ({"llama__rope__freq_base": float("nan")}, "freq_base must be a finite number, not nan"),
        ({"llama__embedding_length": 64}, r"embedding/weight is \[12, 32\]; the config asks for"),
        ({"tokenizer__chat_template": "{% for %}"}, "chat template: not valid Jinja"),
    ],
)
def test_what_the_config_cannot_take_is_refused(tmp_path, changes, message):
    path = tiny_gguf.write(tmp_path / "tiny.gguf", values=tiny_gguf.metadata(**changes))
    with pytest.raises(ModelError, match=message) as refusal:
        open_checkpoint(path)
    assert str(refusal.value).startswith(str(path))
    assert "\n" not in str(refusal.value)


def test_tensors_missing_unknown_or_misshaped_are_refused(tmp_path):
    path = tmp_path / "tiny.gguf"
    weights = tiny_gguf.tensors()
    without = {name: value for name, value in weights.items() if name != "blk.1.ffn_up.weight"}
    for changed, message in (
        (without, "tensor layers/1/mlp/up/kernel is missing"),
        ({**weights, "blk.0.attn_sinks": np.ones(4, np.float32)}, "blk.0.attn_sinks is not known"),
        ({**weights, "output_norm.weight": np.ones(31, np.float32)}, r"norm/scale is \[31\]; .*32"),
    ):
        tiny_gguf.write(path, weights=changed)
        with pytest.raises(ModelError, match=message):
            open_checkpoint(path)


@pytest.mark.parametrize("damage", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, damage):
    weights = tiny_gguf.tensors()
    weights["blk.1.ffn_up.weight"][5, 6] = damage
    checkpoint = open_checkpoint(tiny_gguf.write(tmp_path / "tiny.gguf", weights=weights))
    with pytest.raises(ModelError, match="layers/1/mlp/up/kernel holds values that are not finite"):
        checkpoint.read("layers/1/mlp/up/kernel")
    assert np.isfinite(checkpoint.read("layers/1/mlp/gate/kernel")).all()


def test_a_file_that_shrinks_or_goes_after_it_was_opened(tmp_path):
    path = tiny_gguf.write(tmp_path / "tiny.gguf")
    checkpoint = open_checkpoint(path)
    last = "layers/1/mlp/down/kernel"
    assert checkpoint.read(last).shape == (32, 64)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ModelError, match="became shorter since it was opened"):
        checkpoint.read(last)
    path.unlink()
    with pytest.raises(ModelError, match="No such file"):
        checkpoint.read(last)


def test_what_is_not_a_model_at_all(tmp_path):
    with pytest.raises(ModelError, match="no such file or folder"):
        open_checkpoint(tmp_path / "nothing.gguf")
    for content in (b"", b"GG", b"PK\x03\x04 a zip archive"):
        (tmp_path / "other").write_bytes(content)
        with pytest.raises(ModelError, match="not a GGUF file"):
            open_checkpoint(tmp_path / "other")
    (tmp_path / "other").write_bytes(b"GGUF" + struct.pack(">I", 3) + bytes(16))
    with pytest.raises(ModelError, match="big-endian"):
        open_checkpoint(tmp_path / "other")
