"""SmolLM2-135M-Instruct, as published, against Hugging Face transformers in float32.

Needs the model in the cache, where set-up puts it. About 40 seconds.
"""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.cache import new_cache
from models.checkpoint import open_checkpoint
from models.generate import generate, program
from models.named import resolve
from models.steps import decode_step, prefill
from models.weights import load_weights

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compiled_in_full")]

GOLDEN = Path(__file__).parent.parent / "golden"
PROMPTS = json.loads((GOLDEN / "smollm2_greedy_reference.json").read_text())["prompts"]
GREEDY = [prompt["greedy_ids"] for prompt in PROMPTS]
# Measured: 7.5e-5, on logits of up to 36; transformers' own float32 and float64 differ by as much.
TOLERANCE = 3e-4
LENGTH = 256
LONGEST = max(len(prompt["prompt_ids"]) for prompt in PROMPTS)


class SmolLM2:
    def __init__(self):
        checkpoint = open_checkpoint(resolve("smollm2-135m-instruct"))
        self.config = checkpoint.config
        self.weights = load_weights(checkpoint)
        self.prefill = jax.jit(functools.partial(prefill, self.config), donate_argnums=1)
        self.decode = jax.jit(functools.partial(decode_step, self.config), donate_argnums=1)

    def greedy(self, prompts, steps):
        """Tokens [B, steps] after prompts of any lengths, padded to the longest of all."""
        tokens = np.zeros((len(prompts), LONGEST), np.int32)
        for row, prompt in zip(tokens, prompts, strict=True):
            row[: len(prompt)] = prompt
        lengths = np.array([len(prompt) for prompt in prompts])
        cache = new_cache(self.config, batch=len(prompts), length=LENGTH)
        logits, cache = self.prefill(self.weights, cache, tokens, lengths)
        chosen = [jnp.argmax(logits, axis=-1)]
        for _ in range(steps - 1):
            logits, cache = self.decode(self.weights, cache, chosen[-1][:, None])
            chosen.append(jnp.argmax(logits[:, 0], axis=-1))
        return np.stack(chosen, axis=1).tolist()


@pytest.fixture(scope="module")
def smollm2():
    return SmolLM2()


@pytest.mark.parametrize("index", range(5))
def test_greedy_tokens_are_exactly_the_reference(smollm2, index):
    assert smollm2.greedy([PROMPTS[index]["prompt_ids"]], 64) == [GREEDY[index]]


def test_greedy_tokens_of_stacked_layers_are_exactly_the_reference():
    checkpoint = open_checkpoint(resolve("smollm2-135m-instruct"))
    running = program(checkpoint.config, load_weights(checkpoint, stacked=True))
    for prompt, expected in zip(PROMPTS, GREEDY, strict=True):
        found = generate(
            running, checkpoint.config, [prompt["prompt_ids"]], max_tokens=64, length=LENGTH
        )
        assert [token for (token,) in found] == expected


def test_greedy_tokens_of_all_five_in_one_batch(smollm2):
    found = smollm2.greedy([prompt["prompt_ids"] for prompt in PROMPTS], 8)
    assert found == [tokens[:8] for tokens in GREEDY]


def test_logits_after_the_last_four_tokens(smollm2):
    golden = np.load(GOLDEN / "smollm2_logits_humaneval0_last4.npy")
    tokens = np.array([PROMPTS[0]["prompt_ids"]])
    cache = new_cache(smollm2.config, batch=1, length=LENGTH)
    # The last four token by token after the others, so that prefill and decode are both in it.
    _, cache = smollm2.prefill(smollm2.weights, cache, tokens[:, :-4], np.array([tokens.size - 4]))
    for token, expected in zip(tokens[0, -4:], golden, strict=True):
        logits, cache = smollm2.decode(smollm2.weights, cache, np.array([[token]]))
        np.testing.assert_allclose(logits[0, 0], expected, rtol=0, atol=TOLERANCE)


def test_logits_of_the_whole_prompt_at_once(smollm2):
    golden = np.load(GOLDEN / "smollm2_logits_humaneval0_last4.npy")
    tokens = np.array([PROMPTS[0]["prompt_ids"]])
    cache = new_cache(smollm2.config, batch=1, length=LENGTH)
    logits, _ = smollm2.decode(smollm2.weights, cache, tokens)
    np.testing.assert_allclose(logits[0, -4:], golden, rtol=0, atol=TOLERANCE)
