"""What chip would decode gpt-oss-120b at 1,000, 2,000 and 5,000 tokens a second for one user?

    python -m experiments.run --config=experiments/configs/what_would_it_take.py --workdir=DIR

Inverse design: 64 chips that keep all weights on chip, like Groq's LPU under its compiler, with
six of their numbers free. About a minute on 2 cores. Expect capacity to be what the weights need,
whatever the speed; latencies (of a kernel, of a hop) to be what a faster step asks for first; and
5,000 tokens a second to cost less than three times what 1,000 do.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config; every field may be overridden (`--config.free.capacity.usd=500`)."""
    config = ConfigDict()
    config.experiment = "what_would_it_take"
    config.models = ConfigDict()
    config.models.gpt_oss = ConfigDict(
        {"model": "gpt-oss-120b", "weights": "mxfp4-moe", "kv": "fp8"}
    )
    config.chip = "groq-lpu-v1"
    config.chips = 64
    config.tensor = 8
    config.pipeline = 8
    config.stack = "groqcloud"
    config.batch = 1
    config.context = 8000
    config.tokens_per_s = (1000.0, 2000.0, 5000.0)
    config.fixed_usd = 1000.0  # of a chip; all costs are assumed
    free = config.free = ConfigDict()
    # What a number costs at its reference, which is about the LPU's, and how it grows.
    free.capacity = _free("chip/sram/capacity_bytes", 1e8, 8e9, 230e6, 500.0, 1.0)
    free.bandwidth = _free("chip/sram/bandwidth_bytes_per_s", 1e12, 4e14, 80e12, 500.0, 1.0)
    free.entry = _free("chip/weight_entry_bytes_per_s", 1e12, 4e14, 18.4e12, 500.0, 1.0)
    free.hop = _free("chip/c2c/latency_s", 2e-8, 3e-6, 300e-9, 200.0, -1.0)
    free.link = _free("chip/c2c/bandwidth_bytes_per_s", 1e10, 5e12, 235e9, 300.0, 1.0)
    free.kernel = _free("chip/kernel_s", 5e-8, 1e-5, 1.9e-6, 500.0, -1.0)
    config.executor = "threads"  # --executor=ray spreads rows over a Ray cluster (extra ray)
    return config


def _free(
    number: str, low: float, high: float, reference: float, usd: float, power: float
) -> ConfigDict:
    return ConfigDict(
        {
            "number": number,
            "low": low,
            "high": high,
            "reference": reference,
            "usd": usd,
            "power": power,
        }
    )
