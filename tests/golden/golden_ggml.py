"""ggml's own quantisers and dequantisers, called through ctypes in llama-cpp-python's library."""

import ctypes

import gguf
import numpy as np
from llama_cpp._ggml import libggml

TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q5_K", "Q6_K")

_TO_FLOAT = {
    "F16": "ggml_fp16_to_fp32_row",
    "BF16": "ggml_bf16_to_fp32_row",
    "Q8_0": "dequantize_row_q8_0",
    "Q4_0": "dequantize_row_q4_0",
    "Q4_1": "dequantize_row_q4_1",
    "Q4_K": "dequantize_row_q4_K",
    "Q5_K": "dequantize_row_q5_K",
    "Q6_K": "dequantize_row_q6_K",
}

_quantize = libggml.ggml_quantize_chunk
_quantize.restype = ctypes.c_size_t
_quantize.argtypes = [
    ctypes.c_int,  # enum ggml_type, the same numbers as GGMLQuantizationType
    ctypes.c_void_p,  # float32 source
    ctypes.c_void_p,  # destination
    ctypes.c_int64,  # first element
    ctypes.c_int64,  # rows
    ctypes.c_int64,  # elements a row
    ctypes.c_void_p,  # importance matrix, none
]


def quantize(values: np.ndarray, type_name: str) -> np.ndarray:
    """float32 [rows, columns] -> uint8 [rows, bytes a row], by ggml_quantize_chunk."""
    values = np.ascontiguousarray(values, np.float32)
    if type_name == "F32":
        return values.view(np.uint8)
    kind = gguf.GGMLQuantizationType[type_name]
    shape = gguf.quant_shape_to_byte_shape(values.shape, kind)
    packed = np.zeros(shape, np.uint8)
    written = _quantize(kind, values.ctypes.data, packed.ctypes.data, 0, *values.shape, None)
    assert written == packed.nbytes, (type_name, written, packed.nbytes)
    return packed


def dequantize(packed: np.ndarray, type_name: str, columns: int) -> np.ndarray:
    """uint8 [rows, bytes a row] -> float32 [rows, columns], by the type's to_float in ggml."""
    if type_name == "F32":
        return packed.view(np.float32)
    to_float = getattr(libggml, _TO_FLOAT[type_name])
    to_float.restype = None
    to_float.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    values = np.zeros((len(packed), columns), np.float32)
    packed = np.ascontiguousarray(packed)
    to_float(packed.ctypes.data, values.ctypes.data, values.size)
    return values


def checked_dequantize(packed: np.ndarray, type_name: str, columns: int) -> np.ndarray:
    """As dequantize, after a check that the gguf package gives the same values."""
    values = dequantize(packed, type_name, columns)
    if type_name == "F32":
        return values
    peer = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType[type_name])
    scale = float(np.abs(values).max()) or 1.0
    assert np.abs(values - peer).max() <= 1e-6 * scale, type_name
    return values
