"""Packed blocks of every tensor type against the values ggml itself reads in them. A second."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from models.gguf_file import read_tensor
from models.gguf_header import read_header

BLOCKS = dict(np.load(Path(__file__).parent.parent / "golden" / "quant_blocks.npz"))
TYPES = ("F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q5_K", "Q6_K")


@pytest.mark.newest
@pytest.mark.parametrize("name", TYPES)
def test_dequantises_as_ggml_does(name, tmp_path):
    packed, values = BLOCKS[f"{name}_packed"], BLOCKS[f"{name}_values"]
    path = tmp_path / "blocks.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("first", np.zeros(5, np.float32))  # so that the blocks start somewhere odd
    writer.add_tensor("blocks", packed, raw_dtype=gguf.GGMLQuantizationType[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    read = read_tensor(path, read_header(path).tensors["blocks"])
    assert read.shape == (4, 256)
    # ggml and numpy may round d * q + m once more or less; relative to a row's largest value.
    scale = np.abs(values).max(axis=1, keepdims=True)
    np.testing.assert_array_less(np.abs(read.astype(np.float32) - values) / scale, 1e-6)


def test_the_blocks_are_ordinary_weights_roughly():
    # The golden values are of one array, packed in each type: they can differ by rounding alone.
    for name in TYPES:
        largest = np.abs(BLOCKS["F16_values"]).max(axis=1, keepdims=True)
        error = np.abs(BLOCKS[f"{name}_values"] - BLOCKS["F16_values"]) / largest
        assert error.max() < 0.2, name
        assert np.abs(BLOCKS[f"{name}_values"][3, :32]).max() == 0, name
