"""Where is the cliff between weights that stay on the chip and weights that do not?

    python -m experiments.run --config=experiments/configs/residency_cliff.py --workdir=DIR

Decode steps of models made of the first 1, 2, 3, … layers of the real weights, each with its
weights on chip, off chip, and in two mixed placements. About 15 minutes on 2 cores, most of it
compiling. On a machine with a 32 MB last-level cache, expect on-chip weights to be read about twice
as fast as off-chip ones up to some 20 MB, and no faster beyond 60 MB.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config; every field may be overridden (`--config.dtypes="('int8',)"`)."""
    config = ConfigDict()
    config.experiment = "residency_cliff"
    config.model = "smollm2-135m-instruct"  # a name, a path, or hf:owner/name
    config.dtypes = ("float32", "bfloat16", "int8")
    config.layers = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 25, 30)  # sizes; () is a ladder to all
    config.thin = (1, 2)  # smaller sizes: so many layers of one key-value head each
    config.placements = ("on-chip", "off-chip", "attention-on-chip", "half-on-chip")
    config.rules = ()  # (pattern, memory) pairs: what the placement "rules" means
    config.pair = "found"  # rotation (cache, memory); TPU: persistent-kernel (vmem, hbm)
    config.stacked = False  # layers scanned over: from pinned_host each is fetched under the last
    config.context = 32  # slots in the KV cache
    config.rounds = 5  # the placements take turns, so that drift favours none
    config.samples = 40  # decode steps per placement and round
    config.fresh_host = True  # measure the machine again: predictions from the same hour
    config.device_means = False  # also many steps in one program; always on an accelerator
    return config
