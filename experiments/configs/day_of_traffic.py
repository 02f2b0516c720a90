"""What do a day's users of a coding agent meet on one instance of each system?

    python -m experiments.run --config=experiments/configs/day_of_traffic.py --workdir=DIR

1,000 sessions that start within a day, some 100,000 calls of the model, simulated event by event,
with step times as they are and at both ends of their range; `--config.trace=FILE` replays a trace
instead (experiments/workloads/traces.py has the formats). Eleven minutes of two cores beside much
other load, most of them for step times; a day on one system takes a few seconds alone. Expect
half of the requests to take at most 1.2 s of the model on Cerebras (1.1 to 1.9), 3 to 4 s on Groq's
and Jalapeño, 5 to 8 on MI300X and H100, and 16 on TPU v7; and Cerebras and Groq's, with little room
for caches, to fetch 5 and 8 % of the prefixes from their hosts.
"""

from ml_collections import ConfigDict

from experiments.configs import seconds_saved
from experiments.workloads.workload import all_assumed


def get_config() -> ConfigDict:
    """The config; every field may be overridden."""
    config = ConfigDict()
    config.experiment = "traffic"
    config.model = ConfigDict({"model": "gpt-oss-120b", "weights": "mxfp4-moe", "kv": "fp8"})
    config.systems = seconds_saved.systems()
    config.baseline = "h100"  # which elasticities are told of
    config.workload = "agentic"
    config.assumed = ConfigDict(all_assumed())  # of each workload, by name
    config.trace = ""  # a file to replay instead
    config.sessions = 1000
    config.sessions_per_s = 1000 / 86_400
    config.window_tokens = 131_000
    config.seed = 0
    config.service = seconds_saved.service()
    config.policy = ConfigDict()
    config.policy.most_together = 256
    config.policy.most_waiting = 0
    config.policy.whole_prompts = False
    config.policy.host_bytes = 2e12
    return config
