"""How many seconds does speculative decoding save the user of a coding agent, on which machine?

    python -m experiments.run --config=experiments/configs/speculation.py --workdir=DIR

`seconds_saved.py` with three tokens drafted a step and 2.82 kept, its own among them, which is what
DeepSeek-R1's own draft head reached (TensorRT-LLM blog 1: 1.92, 2.58, 2.82, 2.99 and 3.01 kept with
1 to 5 drafts). DSpark kept 4.73 on code and 2.61 on prose (vLLM blog, 2026-07-27), EAGLE3 on
gpt-oss-120b next to nothing beyond the first: `--config.service.drafted`, `.kept_per_step`. As
long as `seconds_saved.py`. Compare its table with that of `seconds_saved.py`: expect machines whose
step does not grow with the tokens in it to gain most, up to 2.5 times the tokens a second (dense
Llama on TPU v7 and H100), less where more tokens read more experts (Qwen3-Coder on H100: 1.7),
Cerebras next to nothing (gpt-oss) or to lose, as its steps are timed here, and the first token to
gain nothing.
"""

from ml_collections import ConfigDict

from experiments.configs import seconds_saved


def get_config() -> ConfigDict:
    """The config; every field may be overridden."""
    config = seconds_saved.get_config()
    config.service.drafted = 3
    config.service.kept_per_step = 2.82
    config.service.draft_share = 0.05  # of a step, for each token: assumed
    return config
