"""quant_blocks.npz: packed rows of every type GGUF files use, and the values ggml reads in them.

Per type: `TYPE_packed` uint8 [rows, bytes a row] and `TYPE_values` float32 [rows, 256]. The rows
are ordinary weights, a row of one sign (an offset to find), a tiny one, and one of blocks of
zeros, of a constant and of wide range.
"""

from pathlib import Path

import golden_ggml
import numpy as np

COLUMNS = 256  # one K-quant super-block; eight blocks of the older types


def rows() -> np.ndarray:
    """float32 [4, 256], seeded."""
    random = np.random.Generator(np.random.PCG64(0))
    normal = random.standard_normal((4, COLUMNS))
    normal[1] = np.abs(normal[1]) + 2.0
    normal[2] *= 1e-4
    normal[3] *= np.exp2(random.integers(-6, 7, COLUMNS))
    normal[3, :32] = 0.0
    normal[3, 32:64] = -300.0  # a block of a constant beside small values
    return normal.astype(np.float32)


def make(out: Path) -> None:
    """Write quant_blocks.npz."""
    golden: dict[str, np.ndarray] = {}
    for type_name in golden_ggml.TYPES:
        if type_name == "F32":
            continue
        packed = golden_ggml.quantize(rows(), type_name)
        golden[f"{type_name}_packed"] = packed
        golden[f"{type_name}_values"] = golden_ggml.checked_dequantize(packed, type_name, COLUMNS)
    np.savez(out / "quant_blocks.npz", **golden)
    print(f"quant_blocks: {len(golden) // 2} types")
