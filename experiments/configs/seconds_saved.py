"""How many seconds would faster hardware save the user of a coding agent?

    python -m experiments.run --config=experiments/configs/seconds_saved.py --workdir=DIR

Requests of a coding agent, drawn from published percentiles, on six kinds of system with three
models: where the seconds go, and what faster decode can still take off. Six to nine minutes of two
cores beside other load, nearly all of them for step times, which a second run has already. Expect
decode to be most of a typical request everywhere, Cerebras to be the fastest with gpt-oss-120b and
Qwen3-Coder (2 and 5 s where H100 takes 9 and 18) and Jalapeño with Llama (4 s where H100 takes 15),
and the mean request to fall by less than 1.7 times whatever the hardware: tools are most of it.
"""

from ml_collections import ConfigDict

from experiments.workloads.workload import workload


def get_config() -> ConfigDict:
    """The config; every field may be overridden (`--config.service.together=8`)."""
    config = ConfigDict()
    config.experiment = "seconds_saved"
    config.workload = "agentic"
    config.assumed = ConfigDict(workload("agentic").assumed)  # of the workload, by name
    config.sessions = 400  # of the agent, to draw
    config.seed = 0
    config.window_tokens = 131_000  # where a context is compacted; two of the models end at 131,072

    config.models = ConfigDict()
    config.models.llama = ConfigDict({"model": "llama-3.1-70b", "weights": "fp8", "kv": "fp8"})
    config.models.gpt_oss = ConfigDict(
        {"model": "gpt-oss-120b", "weights": "mxfp4-moe", "kv": "fp8"}
    )
    config.models.qwen = ConfigDict(
        {"model": "qwen3-coder-480b-a35b", "weights": "fp8", "kv": "fp8"}
    )

    config.systems = systems()
    config.baseline = "h100"

    config.service = service()
    return config


def systems() -> ConfigDict:
    """Six kinds of machine, each as large as is usual, or as the caches need it to be."""
    found = ConfigDict()
    found.h100 = ConfigDict({"chip": "h100", "stack": "vllm-0.19", "chips": 8, "tensor": 8})
    found.mi300x = ConfigDict(
        {"chip": "mi300x", "stack": "vllm-rocm-0.10", "chips": 8, "tensor": 8}
    )
    # Two cores a chip, so 8 ranks.
    found.tpu_v7 = ConfigDict({"chip": "tpu-v7", "stack": "vllm-tpu", "chips": 4, "tensor": 8})
    # No figure of its software is published: taken to be as far from ideal as vLLM on Nvidia. Its
    # host link is not known either: 16 lanes of PCIe 5.
    found.jalapeno = ConfigDict(
        {
            "chip": "jalapeno",
            "stack": "vllm-0.19",
            "chips": 8,
            "tensor": 8,
            "host_bytes_per_s_per_chip": 64e9,
        }
    )
    # The fewest chips that hold two whole contexts beside the weights.
    found.groq = ConfigDict({"chip": "groq-lpu-v1", "stack": "groqcloud", "sequences": 2})
    found.cerebras = ConfigDict({"chip": "wse-3", "stack": "cerebras-inference", "sequences": 2})
    return found


def service() -> ConfigDict:
    """How calls are served; assumed, unless a comment has a source."""
    found = ConfigDict()
    found.together = 2  # sequences that decode together
    found.network_s = 0.05  # of each call, there and back
    found.near_s = 60.0  # a prefix that waits longer moves to the host
    found.host_s = 1800.0  # and after this to remote storage
    found.remote_bytes_per_s = 25e9  # 200 Gb/s
    found.drafted = 0  # no speculation; see speculation.py
    found.kept_per_step = 0.0  # as drafts of each workload are accepted (workloads/drafts.py)
    found.draft_share = 0.05
    return found
