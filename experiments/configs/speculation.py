"""How many seconds does speculative decoding save the user of a coding agent, on which machine?

    python -m experiments.run --config=experiments/configs/speculation.py --workdir=DIR

`seconds_saved.py` with three tokens drafted a step, of which as many are kept as is published of
what is written: SWE-bench's steps kept 2.9 tokens of five drafts, HumanEval's 4.2 and chat's 2.7
(workloads/drafts.py), so that three drafts keep 2.5 for an agent. How many are drafted is
`--config.service.drafted`; what is kept can be said by `.kept_per_step` (DeepSeek-R1's own draft
head: 2.82 of three, TensorRT-LLM blog 1; EAGLE3 on gpt-oss-120b gained next to nothing beyond the
first draft). A quarter of an hour of two cores beside much other load, nearly all of it for step
times. Compare its table with that of `seconds_saved.py`: expect twice the tokens a second where a
step hardly grows with the tokens in it (dense Llama on TPU v7, H100, MI300X and Cerebras: 2.1 to
2.2 times; gpt-oss: 1.8 to 2.1), less where more tokens read more experts (Qwen3-Coder on MI300X and
H100: 1.5), and the first token to gain nothing.
"""

from ml_collections import ConfigDict

from experiments.configs import seconds_saved


def get_config() -> ConfigDict:
    """The config; every field may be overridden."""
    config = seconds_saved.get_config()
    config.service.drafted = 3
    config.service.draft_share = 0.05  # of a step, for each token: assumed
    return config
