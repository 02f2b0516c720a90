"""Which share of a lab's inference should go to machines that run from SRAM, and which part of it?

    python -m experiments.run --config=experiments/configs/ten_percent.py --workdir=DIR

A coding agent's sessions, chains of calls by software, and chat, each with what its users are
promised, on HBM and SRAM machines: what one instance of each takes on (simulated, with step times
as they are and at both ends of their range), how many of which are the cheapest, and what it costs
to move a share of the calls. A quarter of an hour of two cores beside much other load, half of it
for step times, and less than a minute when it is asked again. Expect HBM machines to be the
cheapest that keep the promises, a tenth of the calls (chat, on Cerebras) to cost 1.1 to 1.2 times
as much, all of them 2.9 to 3.9 times, and a session on Groq's (an instance is 592 chips) to be
seven to nine times as dear as on Cerebras.
"""

from ml_collections import ConfigDict

from experiments.configs import seconds_saved
from experiments.workloads.workload import all_assumed


def get_config() -> ConfigDict:
    """The config; every field may be overridden (`--config.classes.agent.level.ttft_p99_s=2`)."""
    config = ConfigDict()
    config.experiment = "fleet"
    config.model = ConfigDict({"model": "gpt-oss-120b", "weights": "mxfp4-moe", "kv": "fp8"})
    config.window_tokens = 131_000
    config.seed = 0

    config.systems = seconds_saved.systems()
    # Assumed: what large users of clouds pay is not public. Groq's and Cerebras's are written off
    # from the catalogue's prices, which are assumed too.
    config.systems.h100.price_usd_per_chip_hour = 2.5
    config.systems.mi300x.price_usd_per_chip_hour = 2.5
    config.systems.tpu_v7.price_usd_per_chip_hour = 5.0
    config.systems.jalapeno.price_usd_per_chip_hour = 4.0
    config.fast = ("groq", "cerebras")
    config.unproven = ("jalapeno",)  # nobody has published what its software reaches

    config.classes = ConfigDict()
    config.classes.agent = _class("agentic", 2.0, ttft_p99_s=15.0, tokens_per_s=60.0)
    config.classes.software = _class("software", 50.0, ttft_p99_s=2.0, tokens_per_s=60.0)
    config.classes.chat = _class("chat", 1000.0, ttft_p99_s=3.0, tokens_per_s=30.0, simulated=3000)

    config.assumed = ConfigDict(all_assumed())  # of each workload, by name
    config.service = seconds_saved.service()
    config.policy = ConfigDict()
    config.policy.most_together = 256  # sequences that an instance decodes at once
    config.policy.most_waiting = 0  # nobody is refused
    config.policy.whole_prompts = False  # prompts go in chunks beside decoding
    config.policy.host_bytes = 2e12  # of an instance's hosts, for idle caches

    config.costs = ConfigDict()  # all assumed
    config.costs.write_off_years = 4.0
    config.costs.beside_chips = 1.5  # hosts, network and building, over the chips alone
    config.costs.usd_per_kwh = 0.08
    config.costs.cooling = 1.2
    config.costs.cached_price = 0.1
    return config


def _class(
    workload: str,
    sessions_per_s: float,
    *,
    ttft_p99_s: float,
    tokens_per_s: float,
    simulated: int = 300,
) -> ConfigDict:
    """Sessions that start a second over the whole fleet, and what their users are promised."""
    level = ConfigDict(
        {"ttft_p99_s": ttft_p99_s, "tokens_per_s": tokens_per_s, "request_p50_s": 0.0}
    )
    return ConfigDict(
        {
            "workload": workload,
            "sessions_per_s": sessions_per_s,
            "level": level,
            "simulated": simulated,
        }
    )
