from emu.work import Work
from experiments.served import as_served
from experiments.steps_traced import decode_work, prefill_work


def accessed(work: Work, kind: str) -> int:
    return sum(op.count * a.bytes for op in work.ops for a in op.reads if a.kind == kind)


def test_scores_do_not_leave_the_kernel() -> None:
    short, long = (
        prefill_work("llama-3.2-1b", "bf16", "bf16", batch=1, context=0, tokens=n)
        for n in (512, 1024)
    )
    # Scores would be four times as many bytes; what is left grows with the tokens.
    assert long.activation_bytes < 2.05 * short.activation_bytes
    # 16 layers, heads of 64 x 32 and 4 x 512 x 512 bytes of scores each: more than all that's left.
    assert long.peak_activation_bytes < 4 * 32 * 1024 * 1024


def test_scores_over_keys_made_from_latents_do_not_either() -> None:
    work = prefill_work("deepseek-v3", "fp8", "bf16", batch=1, context=0, tokens=1024)
    most = max(a.bytes for op in work.ops for a in (*op.reads, *op.writes) if a.kind != "weights")
    assert most < 4 * 128 * 1024 * 1024  # 128 heads' scores in float32


def test_attention_is_one_kernel_and_the_rest_stays() -> None:
    work = decode_work("llama-3.2-1b", "bf16", "bf16", batch=4, context=1000)
    cached = [
        op for op in work.ops if op.kind == "dot" and any(a.kind == "cache" for a in op.reads)
    ]
    assert len(cached) == 2  # scores and sums, in one scanned layer
    assert len({op.kernel for op in cached}) == 1
    again = as_served(work)  # nothing is left to do
    assert again.activation_bytes == work.activation_bytes
    assert again.kernels == work.kernels
    assert again.weight_bytes == work.weight_bytes


def test_a_latent_that_is_keys_and_values_is_read_once() -> None:
    work = decode_work("deepseek-v3", "fp8", "bf16", batch=1, context=1000)
    # 512 of the latent and 64 that turn, two bytes each, in 61 layers.
    read = 1000 * 61 * (512 + 64) * 2
    assert read <= accessed(work, "cache") < 1.01 * read


def test_fp8_weights_are_multiplied_in_fp8_and_others_are_not() -> None:
    def flops(weights: str) -> dict[str, int]:
        work = decode_work("llama-3.2-1b", weights, "fp8", batch=1, context=1000)
        found: dict[str, int] = {}
        for op in work.ops:
            for dtype, n in op.flops.items() if op.kind == "dot" else ():
                found[dtype] = found.get(dtype, 0) + op.count * n
        return found

    in_fp8 = flops("fp8")
    # The matrices and the tied head; attention stays in bfloat16.
    assert in_fp8["float8_e4m3fn"] == 2 * (
        16 * (2 * 2048**2 + 2 * 2048 * 512 + 3 * 2048 * 8192) + 128256 * 2048
    )
    assert in_fp8["bfloat16"] == 16 * 4 * 1001 * 2048
    for other in ("bf16", "int8", "nvfp4", "mxfp4"):
        assert set(flops(other)) == {"bfloat16"}
