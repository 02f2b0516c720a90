import json
from typing import Any

import numpy as np
import pytest

import emu
from experiments.deployment import Deployment, Hardware, Served
from experiments.errors import ExperimentError
from experiments.prediction import predicted
from experiments.question import Question
from experiments.session_time import Service, parts
from experiments.step_times import Axes, StepTimes, as_row, check_together, of_row, step_times
from experiments.workloads.sampling import sample
from experiments.workloads.workload import workload

MODEL = Served(model="llama-3.2-1b", weights="bf16", kv="bf16")
WINDOW = 32_000


@pytest.fixture(scope="module")
def times() -> StepTimes:
    hardware = Hardware(chip="h100", stack="vllm-0.19", chips=1)
    return step_times(Deployment(served=MODEL, hardware=hardware, window_tokens=WINDOW))


def test_entries_are_direct_predictions(times: StepTimes) -> None:
    asked = Question(
        model=MODEL.model, chip="h100", stack="vllm-0.19", batch=8, context=int(0.25 * 31_999)
    )
    direct = predicted(asked)
    assert times.step_s(8, asked.context) == pytest.approx(direct.seconds_per_step, rel=1e-12)
    assert times.power_w == 700
    assert times.low < 1 < times.high


def test_between_entries_it_is_within_2_percent(times: StepTimes) -> None:
    assert len(times.checked) == 5
    assert times.worst < 0.02
    rng = np.random.default_rng(0)
    for share in rng.uniform(size=(12, 2)):
        # As many tokens as there is room for, and up to 512 sequences.
        batch = int(512 ** share[0])
        context = int(share[1] * min(WINDOW - 1, 0.9 * 77e9 / 32_768 / batch))
        asked = Question(
            model=MODEL.model, chip="h100", stack="vllm-0.19", batch=batch, context=context
        )
        direct = predicted(asked).seconds_per_step
        assert times.step_s(batch, context) == pytest.approx(direct, rel=0.02)


def test_steps_of_more_sequences_than_there_are_are_refused() -> None:
    check_together("policy.most_together", 512)
    with pytest.raises(ExperimentError, match=r"policy.most_together is at most 512, not 513"):
        check_together("policy.most_together", 513)


def test_a_prompt_takes_what_experiments_predict_says(times: StepTimes) -> None:
    asked = Question(
        model=MODEL.model, chip="h100", stack="vllm-0.19", prompt=6000, prefix=9000, context=20_000
    )
    assert times.chunk == 2048
    direct = predicted(asked).ttft_s
    assert direct is not None
    assert float(times.prefill_s(6000, 9000)) == pytest.approx(direct, rel=0.03)
    assert float(times.prefill_s(0, 9000)) == 0


def test_arrays_and_numbers_agree(times: StepTimes) -> None:
    batches, contexts = np.array([1, 5, 20, 700]), np.array([5, 900, 15_000, 31_000])
    one_by_one = [times.step_s(b, c) for b, c in zip(batches, contexts, strict=True)]
    np.testing.assert_allclose(times.steps_s(batches, contexts), one_by_one, rtol=1e-12)


def test_room_is_what_the_cache_takes(times: StepTimes) -> None:
    # 16 layers, keys and values of 8 heads of 64, two bytes each; 80 GB, 1.236 billion weights.
    token_bytes = 16 * 2 * 8 * 64 * 2
    assert times.room.token_bytes == pytest.approx(token_bytes)
    assert times.room.all_token_bytes == pytest.approx(token_bytes)
    # The head is the embedding, held once.
    assert times.room.fixed_bytes == pytest.approx(2 * 1.236e9, rel=0.01)
    assert times.room.free_bytes == pytest.approx(80e9 - 2.472e9, rel=0.01)


def test_a_row_holds_all_of_it(times: StepTimes) -> None:
    assert of_row(json.loads(json.dumps(as_row(times)))) == times


def test_sequences_take_turns_in_a_pipeline() -> None:
    hardware = Hardware(chip="groq-lpu-v1", stack="groqcloud", tensor=8, pipeline=4, chips=32)
    asked = Deployment(served=MODEL, hardware=hardware, window_tokens=WINDOW)
    few = Axes(sequences=(1, 2, 4), contexts=(0.001, 1.0), tokens=(1, 64, 128), prefixes=(0.0, 0.6))
    found = step_times(asked, few)
    assert found.stages == 4
    assert found.step_s(found.stages, 1000) == found.step_s(1, 1000)
    assert found.step_s(4 * found.stages, 1000) > found.step_s(1, 1000)
    # The second chunk leaves a stage's time after the first.
    chunk = found.chunk
    one, two = (float(found.prefill_s(n * chunk, 0)) for n in (1, 2))
    assert two - one == pytest.approx(found.prefill.at(chunk, chunk) / found.stages)


def test_on_wafers_nobody_takes_turns() -> None:
    hardware = Hardware(chip="wse-3", stack="cerebras-inference", chips=2, pipeline=2)
    asked = Deployment(served=MODEL, hardware=hardware, window_tokens=WINDOW)
    few = Axes(sequences=(1, 2), contexts=(0.001, 1.0), tokens=(1, 64), prefixes=(0.0, 0.6))
    found = step_times(asked, few)
    assert (found.stages, found.chips) == (1, 2)
    # Their steps hold more sequences as it is: two take less than twice as long as one.
    assert found.step_s(1, 1000) < found.step_s(2, 1000) < 2 * found.step_s(1, 1000)


def test_what_cannot_be_held_says_how_many_chips_would_do() -> None:
    hardware = Hardware(chip="h100", stack="vllm-0.19", chips=1, tensor=1, sequences=4)
    served = Served(model="llama-3.1-70b")
    with pytest.raises(emu.CapacityError, match="2 chips would do"):
        step_times(Deployment(served=served, hardware=hardware, window_tokens=120_000))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"chip": "h1000"}, "no chip 'h1000'"),
        ({"stack": "vlm"}, "no stack 'vlm'"),
        ({"sequences": 0}, "sequences must be at least 1"),
        ({"chips": -1}, "chips must be at least 0"),
        ({"tensor": -8}, "tensor must be at least 0 .found., not -8"),
        ({"price_usd_per_chip_hour": -1.0}, "price_usd_per_chip_hour must be at least 0"),
    ],
)
def test_hardware_is_checked(fields: dict[str, Any], message: str) -> None:
    with pytest.raises((ExperimentError, emu.EmuError), match=message):
        Hardware(**{"chip": "h100", "stack": "ideal", **fields})


def test_a_call_is_network_load_prefill_and_decode(times: StepTimes) -> None:
    traffic = sample(workload("agentic"), sessions=40, per_s=1.0, seed=0).within(WINDOW)
    service = Service(together=2, network_s=0.1, near_s=10, host_s=100)
    found = parts(traffic, times, service)
    assert (found["network"] == 0.1).all()
    # 32,768 bytes a token: at once from the GPU's own memory, over its host link, or 25 GB/s.
    held = traffic.prefix_tokens * 32_768
    starts = np.append(True, traffic.session[1:] != traffic.session[:-1])
    near = ~starts & (traffic.delay_s <= 10)
    far = ~starts & (traffic.delay_s > 100)
    assert (found["prefix load"][near] == 0).all()
    np.testing.assert_allclose(found["prefix load"][far], held[far] / 25e9)
    np.testing.assert_allclose(found["prefix load"][starts], held[starts] / times.host_bytes_per_s)
    context = traffic.prefix_tokens + traffic.append_tokens + traffic.output_tokens / 2
    steps = times.steps_s(2, context)
    np.testing.assert_allclose(found["decode"], steps * (traffic.output_tokens - 1))
    # Speculation divides by the tokens kept, and pays for drafting.
    faster = Service(together=2, drafted=3, kept_per_step=2.5, draft_share=0.1)
    np.testing.assert_allclose(parts(traffic, times, faster)["decode"], found["decode"] * 1.3 / 2.5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"together": 0}, "together must be at least 1"),
        ({"kept_per_step": 1.5}, "lies between 1 and drafted"),
        ({"near_s": 5.0, "host_s": 1.0}, "must rise from 0"),
        ({"network_s": -1.0}, "must not be negative"),
    ],
)
def test_service_is_checked(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        Service(**fields)  # type: ignore[arg-type]
