"""How long does a user wait for each token of an answer to HumanEval's prompts?

    python -m experiments.run --config=experiments/configs/humaneval.py --workdir=DIR

Time to first token, between tokens, and per output token, over HumanEval's 164 prompts, as many
tokens as each canonical solution has, greedily; weights as the placements say. About 20 minutes on
2 cores. Expect the two placements to agree where the weights are many times the cache, and the time
per token to follow the bytes of the weights.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config; every field may be overridden (`--config.tasks=10`)."""
    config = ConfigDict()
    config.experiment = "humaneval"
    config.model = "smollm2-135m-instruct"  # a name, a path, or hf:owner/name
    config.dtypes = ("float32", "bfloat16", "int8")
    config.placements = ("off-chip", "on-chip")
    config.rules = ()  # (pattern, memory) pairs: what the placement "rules" means
    config.pair = "found"  # rotation (cache against memory), on a TPU memory-kind (device, host)
    config.tasks = 0  # the first so many of the 164; 0 is all
    config.max_tokens = 256  # at most; the canonical solution's length where that is shorter
    config.context = 0  # slots in the KV cache; 0 is as many as the longest task needs
    config.tensor = 0  # devices to spread the model over; 0: the most that divide it
    return config
