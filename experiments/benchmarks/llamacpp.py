"""llama.cpp on the same weights: the GGUF file written again in another type.

Optional: needs the extra `llamacpp` (pip install -e '.[llamacpp]', a quarter of an hour's
compiling). Its low-level calls are timed, without its Python wrapper's bookkeeping.
"""

import ctypes
import importlib.util
import os
import time
from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np

import emu
from experiments.benchmarks.contest import Contestant
from experiments.benchmarks.decoding import SLOTS, TOKENS
from experiments.errors import ExperimentError

TYPES = {
    "F32": gguf.GGMLQuantizationType.F32,
    "BF16": gguf.GGMLQuantizationType.BF16,
    "Q8_0": gguf.GGMLQuantizationType.Q8_0,
}


def installed() -> bool:
    """Whether the extra is there."""
    return importlib.util.find_spec("llama_cpp") is not None


def requantised(source: Path, kind: str, folder: Path) -> Path:
    """Write `source` again with its matrices in `kind`, unless that is done already."""
    target = folder / f"{source.stem}.from-bench.{kind}.gguf"
    if target.exists() and target.stat().st_mtime > source.stat().st_mtime:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    reader = gguf.GGUFReader(source)
    unfinished = target.with_suffix(f".{os.getpid()}.part")
    writer = gguf.GGUFWriter(unfinished, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], inner)
    for tensor in reader.tensors:
        data = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        stored = TYPES[kind] if data.ndim == 2 else TYPES["F32"]
        writer.add_tensor(tensor.name, gguf.quants.quantize(data, stored), raw_dtype=stored)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
    return target


def decoder(name: str, path: Path, prompt: Sequence[int], threads: int) -> Contestant:
    """llama.cpp's greedy decoding behind the same prompt, a sample a token.

    A turn whose tokens differ from the first one's raises ExperimentError. That they need not be
    ours is no error: its Q8_0 rounds otherwise than our int8.
    """
    import llama_cpp  # noqa: PLC0415 - an optional extra

    model = llama_cpp.Llama(
        str(path), n_ctx=SLOTS, n_threads=threads, n_threads_batch=threads, verbose=False
    )
    vocab = model.n_vocab()

    def decode() -> tuple[list[int], emu.Latency]:
        model.reset()
        model.eval(list(prompt))
        context = model.ctx
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), (vocab,))
        tokens = [int(logits.argmax())]
        recorder = emu.Recorder()
        for _ in range(TOKENS):
            start = time.perf_counter()
            one = (ctypes.c_int32 * 1)(tokens[-1])
            if llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(one, 1)):
                raise ExperimentError(f"bench: {name} could not decode")
            logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), (vocab,))
            tokens.append(int(logits.argmax()))
            recorder.add(time.perf_counter() - start)
        return tokens, recorder.latency()

    first, _ = decode()

    def turn() -> emu.Latency:
        tokens, latency = decode()
        if tokens != first:
            raise ExperimentError(f"bench: {name} decoded {tokens}, and {first} before")
        return latency

    return Contestant(name=name, turn=turn)
