"""How much on-chip memory, or how much off-chip bandwidth, does a fast step take?

    python -m experiments.run --config=experiments/configs/residency_map.py --workdir=DIR

Step time of Llama-3.1-8B in fp8 on one chip like H100 over on-chip capacity and off-chip bandwidth,
weights on chip as far as they fit, the catalogue's chips drawn on it. About a minute on 2 cores.
Expect lines of equal time that are flat while little fits, fall once most of the weights do, and
end where all of them do, at 8.2 GB: of the catalogue's chips only wafers have so much.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config; every field may be overridden."""
    config = ConfigDict()
    config.experiment = "residency_map"
    config.served = ConfigDict({"model": "llama-3.1-8b", "weights": "fp8", "kv": "fp8"})
    config.chip = "h100"
    config.chips = 1
    config.tensor = 1
    config.stack = "vllm-0.19"
    config.batch = 1
    config.context = 2000
    config.capacity_gb = (
        0.008, 0.1, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 6.5, 7.0, 7.25, 7.5, 7.75, 8.0, 8.1, 8.2,
        50.0,
    )  # fmt: skip
    config.bandwidth_tb_per_s = (
        0.02,
        0.05,
        0.1,
        0.2,
        0.5,
        1.0,
        2.0,
        3.0,
        5.0,
        8.0,
        12.0,
        20.0,
        30.0,
    )
    config.on_chip_bandwidth_tb_per_s = 30.0  # assumed, whatever the capacity
    config.lines_ms = (2.0, 3.0, 4.0, 6.0, 10.0, 20.0, 50.0, 200.0)
    config.executor = "threads"  # --executor=ray spreads rows over a Ray cluster (extra ray)
    return config
