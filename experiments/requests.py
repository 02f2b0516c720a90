"""HumanEval's tasks as requests to a model: token ids, how many to write, what they need."""

import dataclasses
from collections.abc import Sequence

from experiments.errors import ExperimentError
from experiments.workloads import humaneval
from models.checkpoint import Checkpoint
from models.generate import cache_length


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """One task as token ids, and how many tokens to write."""

    task: str
    prompt: tuple[int, ...]
    new_tokens: int


def requests(checkpoint: Checkpoint, tasks: int, max_tokens: int) -> tuple[Request, ...]:
    """The first `tasks` (0: all), tokenised without a chat template or special tokens.

    As many tokens are to be written as the canonical solution has, at least 2 (a gap needs two)
    and at most `max_tokens`.
    """
    encode = checkpoint.tokenizer.encode
    return tuple(
        Request(
            task=task.id,
            prompt=tuple(encode(task.prompt)),
            new_tokens=min(max_tokens, max(2, len(encode(task.solution)))),
        )
        for task in humaneval.tasks(tasks)
    )


def slots(asked: Sequence[Request], *, context: int, most: int) -> int:
    """Slots in the KV cache that serve every request.

    Args:
      asked: the requests.
      context: what the config says; 0 is as many as needed, up to a multiple of 64.
      most: the model's longest context.

    Raises:
      ExperimentError: a request does not fit.
    """
    needed = {r.task: cache_length([len(r.prompt)], r.new_tokens) for r in asked}
    task, longest = max(needed.items(), key=lambda item: item[1])
    if context and context < longest:
        raise ExperimentError(
            f"{task} needs {longest} slots in the KV cache, and config.context is {context}: "
            "raise it, or lower max_tokens"
        )
    if context > most:
        raise ExperimentError(
            f"config.context is {context}, and the model's context is at most {most}: lower it, or "
            "set it to 0 for as many slots as are needed"
        )
    tokens = max(len(r.prompt) + r.new_tokens for r in asked)
    if tokens > most:
        raise ExperimentError(
            f"HumanEval needs {tokens} tokens of context, and the model has {most}: take a model "
            "with more, or lower max_tokens or tasks"
        )
    return context or -(-longest // 64) * 64
