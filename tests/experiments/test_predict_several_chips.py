import pytest

import emu
from experiments.prediction import predicted
from experiments.prediction_printed import as_text
from experiments.question import Question


def test_llama_70b_fits_on_72_stages_of_8_lpus() -> None:
    asked = {"model": "llama-3.1-70b", "weights": "fp8", "kv": "fp8", "chip": "groq-lpu-v1"}
    found = predicted(Question(**asked, chips=576, tensor=8, pipeline=72))
    sram = found.memories["sram"]
    # The fullest stage has two layers: 8192 wide, 64 and 8 heads of 128, 28672 inside.
    layer = 2 * 8192**2 + 2 * 8192 * 1024 + 3 * 8192 * 28672
    assert 2 * layer / 8 <= sram.used_bytes <= 1.01 * 2 * layer / 8 + 1e6
    assert sram.used_bytes < sram.capacity_bytes == 230_000_000
    # Eight chips at a time take in a stage's weights; one token crosses all stages.
    entry = emu.chip("groq-lpu-v1").weight_entry_bytes_per_s
    assert entry is not None
    assert found.seconds_per_step > found.bytes["weights"] / 8 / entry.value
    assert "576 x groq-lpu-v1 (tensor 8, pipeline 72)" in as_text(found)
    fewest = predicted(Question(**asked)).system  # as few stages of 8 as hold two layers each
    assert (fewest.tensor, fewest.chips) == (8, 8 * fewest.pipeline)
    assert 40 <= fewest.pipeline <= 42


def test_left_out_chips_are_the_fewest_that_hold_the_model() -> None:
    found = predicted(Question(model="llama-3.1-70b", chip="h100"))
    assert (found.system.chips, found.system.tensor) == (2, 2)
    both = 2 * emu.chip("h100").memory("hbm").bandwidth_bytes_per_s.value
    floor = (found.bytes["weights"] + found.bytes["cache"]) / both
    assert floor < found.seconds_per_step < 1.1 * floor
    assert found.breakdown_s["collectives"] > 0
    wafers = predicted(Question(model="llama-3.1-70b", chip="wse-3", prompt=100))
    assert (wafers.system.chips, wafers.system.pipeline, wafers.system.tensor) == (4, 4, 1)
    assert wafers.ttft_s is not None
    assert wafers.ttft_s > wafers.seconds_per_step


def test_prompts_and_drafts_cross_wafers_as_fast_as_is_published() -> None:
    # Llama-3.1-405B: 969 tokens/s, with drafts, and 0.24 s to the first token with all that lies
    # between (tomshardware.com, November 2024, "AI writing code 75x faster"). One token at a time
    # is 158 tokens/s here.
    asked = {"model": "llama-3.1-405b", "chip": "wse-3", "stack": "cerebras-inference"}
    found = predicted(Question(**asked, draft_tokens=7, tokens_per_step=8, prompt=1000))
    assert found.tokens_per_s_per_user > 969
    assert found.ttft_s is not None
    assert found.seconds_per_step < found.ttft_s < 0.24


def test_replicas_take_as_long_as_one_with_its_share_of_the_batch() -> None:
    asked = {"model": "llama-3.1-8b", "chip": "h100", "tensor": 2, "prompt": 500}
    one = predicted(Question(**asked, chips=2, batch=4))
    two = predicted(Question(**asked, chips=4, data=2, batch=8))
    assert two.seconds_per_step == pytest.approx(one.seconds_per_step, rel=1e-9)
    assert two.ttft_s == pytest.approx(one.ttft_s, rel=1e-9)
    assert two.memories["hbm"].used_bytes == one.memories["hbm"].used_bytes


def test_experts_are_spread() -> None:
    asked = {"model": "mixtral-8x7b", "chip": "h100", "chips": 4, "tensor": 4, "batch": 8}
    whole = predicted(Question(**asked))
    spread = predicted(Question(**asked, expert=4))
    assert spread.system.expert == 4
    # Of 8 experts the busiest rank may have to read both of its own.
    assert spread.seconds_per_step >= whole.seconds_per_step


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"chips": 3, "tensor": 3}, "3 tensor ranks: not divisible"),
        ({"chips": 6, "tensor": 4, "pipeline": 2}, "must multiply to the chips"),
        ({"chips": 4, "tensor": 4, "expert": 2}, "no routed experts"),
        ({"chips": 4, "tensor": 2, "data": 2, "batch": 3}, "does not divide among --data=2"),
        ({"model": "llama-3.1-405b", "chips": 8, "tensor": 8}, "bytes over"),
    ],
)
def test_impossible_splits_say_why(asked: dict[str, object], message: str) -> None:
    whole = {"model": "llama-3.1-8b", "chip": "h100", **asked}
    with pytest.raises(ValueError) as raised:
        predicted(Question(**whole))  # type: ignore[arg-type]
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
