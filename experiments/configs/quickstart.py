"""How long does a token take on this machine, on chip and off chip, and where is the cliff?

    make demo
    python -m experiments.run --config=experiments/configs/quickstart.py --workdir=DIR

A few minutes' worth of `residency_cliff` and `humaneval`: about 5 minutes on 2 cores.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config; `--config.model` sets the model of both parts."""
    config = ConfigDict()
    config.experiment = "quickstart"
    config.model = "smollm2-135m-instruct"  # a name, a path, or hf:owner/name

    config.cliff = ConfigDict()
    config.cliff.model = config.get_ref("model")
    config.cliff.dtypes = ("float32", "bfloat16", "int8")
    config.cliff.layers = ()  # a ladder of sizes to all of the model's layers
    config.cliff.placements = ("on-chip", "off-chip", "half-on-chip")
    config.cliff.rules = ()
    config.cliff.pair = "found"
    config.cliff.fresh_host = True  # measure the machine again: predictions from the same hour
    config.cliff.context = 32
    config.cliff.rounds = 3
    config.cliff.samples = 30

    config.humaneval = ConfigDict()
    config.humaneval.model = config.get_ref("model")
    config.humaneval.dtypes = ("float32", "bfloat16", "int8")
    config.humaneval.placements = ("off-chip", "on-chip")
    config.humaneval.rules = ()
    config.humaneval.pair = "found"
    config.humaneval.tasks = 6
    config.humaneval.max_tokens = 64
    config.humaneval.context = 0
    return config
