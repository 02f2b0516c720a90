"""Which chip gives a user of a coding model the most, and which gives the most for its place?

    python -m experiments.run --config=experiments/configs/pareto_coding.py --workdir=DIR

Fronts of tokens/s per user against tokens/s per chip, and per joule, for gpt-oss-120b,
Llama-3.1-70B and Qwen3-Coder-480B on every chip of the catalogue, over batch and split. About 20
minutes on 2 cores; every finished front is kept. Expect SRAM machines to reach speeds
for one user that HBM machines do not, with far fewer tokens a second from each chip.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config; every field may be overridden (`--config.chips="('h100', 'wse-3')"`)."""
    config = ConfigDict()
    config.experiment = "pareto_coding"
    config.models = ConfigDict()
    config.models.gpt_oss = ConfigDict(
        {"model": "gpt-oss-120b", "weights": "mxfp4-moe", "kv": "fp8"}
    )
    config.models.llama = ConfigDict({"model": "llama-3.1-70b", "weights": "fp8", "kv": "fp8"})
    config.models.qwen = ConfigDict(
        {"model": "qwen3-coder-480b-a35b", "weights": "fp8", "kv": "fp8"}
    )
    config.chips = ()  # all of the catalogue
    config.stack = "ideal"  # of chips that no stack below is fitted on
    config.stacks = ConfigDict(
        {
            "a100-80gb": "vllm-0.19", "h100": "vllm-0.19", "h200": "vllm-0.22",
            "b200": "vllm-0.19", "mi300x": "vllm-rocm-0.10", "tpu-v5e": "vllm-tpu",
            "tpu-v6e": "vllm-tpu", "tpu-v7": "vllm-tpu", "groq-lpu-v1": "groqcloud",
            "wse-3": "cerebras-inference", "trainium1": "transformers-neuronx",
            "inferentia2": "transformers-neuronx", "wormhole-n150": "tt-metal",
            "blackhole-p150": "tt-metal",
        }
    )  # fmt: skip
    config.batch = (1, 2, 4, 8, 16, 32, 64, 128)
    config.context = 8000
    config.users = (20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)  # tokens/s: who gives them for least
    # Assumed, as in ten_percent.py; others: the catalogue's rent, or its price written off.
    config.usd_per_chip_hour = ConfigDict(
        {"h100": 2.5, "mi300x": 2.5, "tpu-v7": 5.0, "jalapeno": 4.0}
    )
    config.costs = ConfigDict()  # all assumed
    config.costs.write_off_years = 4.0
    config.costs.beside_chips = 1.5  # hosts, network and building, over the chips alone
    config.costs.usd_per_kwh = 0.08
    config.costs.cooling = 1.2
    config.executor = "threads"  # --executor=ray spreads rows over a Ray cluster (extra ray)
    return config
