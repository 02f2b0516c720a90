import json
import subprocess
import sys
from pathlib import Path

import pytest

import emu
from experiments.errors import ExperimentError
from experiments.prediction import predicted
from experiments.prediction_printed import as_json, as_text
from experiments.question import Question
from models.errors import ModelError
from tests.experiments.commands import run_command
from tests.waiting import HANGS_S

FIELDS = {
    "seconds_per_step",
    "seconds_per_token",
    "tokens_per_s_per_user",
    "breakdown_s",
    "bytes",
    "flops",
    "memories",
    "low_s",
    "high_s",
}


def run(*flags: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "experiments.predict", *flags],
        capture_output=True,
        text=True,
        timeout=HANGS_S,
        check=False,
    )


@pytest.mark.newest
def test_the_command_prints_one_object_and_the_same_one_again(tmp_path: Path) -> None:
    trace = tmp_path / "step.json"
    asked = ["--model=llama-3.1-8b", "--chip=a100-80gb", "--context=2000", "--prompt=300", "--json"]
    done = run(*asked, f"--trace={trace}")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    out = json.loads(done.stdout)
    assert set(out) > FIELDS | {"ttft_s"}
    assert run_command("experiments.predict", *asked).stdout == done.stdout
    events = json.loads(trace.read_text())["traceEvents"]
    ends = [1e-6 * (event["ts"] + event["dur"]) for event in events if event["ph"] == "X"]
    assert max(ends) == pytest.approx(out["seconds_per_step"], rel=1e-6)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--chip=h100"], "--model is missing"),
        (["--model=llama-3.1-8b", "--chip=h100", "--contxt=9"], "line flag 'contxt'"),
        (["--model=llama-3.1-8b", "--chip=h100", "--batch=two"], "--batch=two"),
        (["--model=llama-3.1-8b", "--chip=h100", "--trace=/nowhere/x.json"], "/nowhere/x.json"),
    ],
)
def test_what_cannot_be_done_is_one_line(flags: list[str], message: str) -> None:
    done = run_command("experiments.predict", *flags)
    assert done.returncode == 1
    assert done.stdout == ""
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_llama_8b_on_one_a100_is_bytes_over_bandwidth() -> None:
    found = predicted(Question(model="llama-3.1-8b", chip="a100-80gb", batch=1, context=2000))
    # 32 layers of 2·4096² + 2·4096·1024 + 3·4096·14336 weights and a head of 128256·4096, two bytes
    # each; norms are a millionth of that, the embedding one row.
    weights = 2 * (32 * (2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14336) + 128256 * 4096)
    assert found.bytes["weights"] == pytest.approx(weights, rel=1e-3)
    assert found.bytes["weights"] == pytest.approx(15.0e9, rel=1e-3)
    # 2000 tokens of keys and values, 32 layers of 8 heads of 128, two bytes each.
    assert found.bytes["cache"] == pytest.approx(2000 * 2 * 32 * 8 * 128 * 2, rel=1e-3)
    assert found.seconds_per_step >= 7.36e-3  # 15.0 GB at 2.039 TB/s
    assert found.seconds_per_step == pytest.approx(
        (found.bytes["weights"] + found.bytes["cache"]) / 2.039e12, rel=1e-3
    )
    assert found.memories["hbm"].capacity_bytes == 80_000_000_000
    # All weights (the embedding too) and a cache of 2001 slots.
    held = weights + 2 * 128256 * 4096 + 2001 * 131072
    assert found.memories["hbm"].used_bytes == pytest.approx(held, rel=1e-3)
    assert found.memories["l2"].used_bytes == 0


def test_the_object_holds_what_was_asked_and_adds_up() -> None:
    found = predicted(Question(model="qwen2.5-0.5b", chip="wse-3", tokens_per_step=2.5, batch=3))
    out = as_json(found)
    assert set(out) > FIELDS
    assert "ttft_s" not in out
    assert json.loads(json.dumps(out)) == out
    assert sum(out["breakdown_s"].values()) == pytest.approx(out["seconds_per_step"])
    assert out["seconds_per_token"] == pytest.approx(out["seconds_per_step"] / 2.5)
    assert out["tokens_per_s_per_user"] == pytest.approx(1 / out["seconds_per_token"])
    assert out["low_s"] < out["seconds_per_step"] < out["high_s"]
    assert set(out["memories"]["sram"]) == {"used", "capacity"}
    assert 0 < out["memories"]["sram"]["used"] < out["memories"]["sram"]["capacity"]
    for number in out["ranges"]:  # every number that widened the range says where it is from
        assert number["source"]
        assert number["low"] <= number["value"] <= number["high"]


def test_the_table_tells_the_time_the_memories_and_what_is_assumed() -> None:
    asked = Question(model="gpt-oss-20b", weights="mxfp4-moe", chip="wse-3", tokens_per_step=1.5)
    found = predicted(asked)
    text = as_text(found)
    for name in [*found.breakdown_s, *found.memories, "tokens/s for each user"]:
        assert name in text
    assumed = [moved.name for moved in found.moved if moved.number.kind == "assumed"]
    assert assumed
    for name in assumed:
        assert name in text
    assert "drafts: 1 a step, the fewest that can yield 1.5" in text
    assert "experts: all 32 are equally likely" in text


def test_narrower_weights_and_caches_are_fewer_bytes() -> None:
    def bytes_of(weights: str, kv: str, model: str = "qwen2.5-7b") -> dict[str, int]:
        return dict(predicted(Question(model=model, chip="h200", weights=weights, kv=kv)).bytes)

    wide = bytes_of("bf16", "bf16")
    assert bytes_of("fp8", "fp8")["weights"] == pytest.approx(wide["weights"] / 2, rel=1e-3)
    assert bytes_of("fp8", "fp8")["cache"] == pytest.approx(wide["cache"] / 2, rel=1e-3)
    # Four bits, and a scale and a zero of 16 bits for 32 weights, against 16 bits.
    assert bytes_of("int4-g32", "bf16")["weights"] == pytest.approx(
        wide["weights"] * 5 / 16, rel=1e-3
    )
    moe, all_narrow = (
        bytes_of(word, "bf16", "gpt-oss-20b")["weights"] for word in ("mxfp4-moe", "mxfp4")
    )
    assert all_narrow < moe < bytes_of("bf16", "bf16", "gpt-oss-20b")["weights"]


def test_speculation_pays_for_what_it_verifies_and_drafts() -> None:
    alone = predicted(Question(model="llama-3.1-8b", chip="h100"))
    asked = {"model": "llama-3.1-8b", "chip": "h100", "tokens_per_step": 3.0, "draft_tokens": 4}
    free = predicted(Question(**asked))
    drafted = predicted(Question(**asked, draft_model="llama-3.2-1b"))
    small = predicted(Question(model="llama-3.2-1b", chip="h100"))
    assert alone.seconds_per_step < free.seconds_per_step < 1.1 * alone.seconds_per_step
    assert drafted.seconds_per_step == pytest.approx(
        free.seconds_per_step + 4 * small.seconds_per_step
    )
    assert drafted.seconds_per_token == drafted.seconds_per_step / 3
    assert drafted.memories["hbm"].used_bytes == pytest.approx(
        free.memories["hbm"].used_bytes + small.memories["hbm"].used_bytes, rel=1e-9
    )


def test_a_longer_prompt_takes_longer_and_what_is_cached_is_spared() -> None:
    def ttft(prompt: int, prefix: int = 0) -> float:
        found = predicted(
            Question(model="llama-3.2-1b", chip="h100", prompt=prompt, prefix=prefix)
        ).ttft_s
        assert found is not None
        return found

    one, two, many = ttft(1000), ttft(2000), ttft(20_000)
    assert one < two < many
    # 2·parameters FLOPs a token, each chunk's head one token; attention comes on top.
    flops = 2 * 20_000 * 16 * (2 * 2048**2 + 2 * 2048 * 512 + 3 * 2048 * 8192)
    assert many > flops / emu.chip("h100").peak("bfloat16").value
    assert ttft(1000, prefix=19_000) < many / 2
    assert ttft(1000, prefix=19_000) > one


def test_rules_place_the_layers(tmp_path: Path) -> None:
    asked = {"model": "qwen2.5-0.5b", "chip": "wse-3"}
    near = predicted(Question(**asked))
    some = "layers[:12]/**=sram, **=off-chip"
    half = predicted(Question(**asked, placement=some))
    far = predicted(Question(**asked, placement="memoryx"))
    assert near.seconds_per_step < half.seconds_per_step < far.seconds_per_step
    assert 0 < half.memories["sram"].used_bytes < near.memories["sram"].used_bytes
    file = tmp_path / "rules"
    file.write_text("# the first half\nlayers[:12]/** = sram\n\n** = off-chip\n")
    same = predicted(Question(**asked, placement=str(file)))
    assert same.seconds_per_step == half.seconds_per_step


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"model": "lama-3.1-8b"}, "did you mean 'llama-3.1-8b'"),
        ({"chip": "h1000"}, "the nearest is 'h100'"),
        ({"chip": "nowhere.toml"}, "nowhere.toml cannot be read"),
        ({"stack": "ideel"}, "the nearest is 'ideal'"),
        ({"weights": "bf17"}, "did you mean 'bf16'"),
        ({"weights": "bf16-moe"}, "no format 'bf16-moe'"),
        ({"kv": "int9"}, "did you mean 'int8'"),
        ({"batch": 0}, "--batch must be at least 1"),
        ({"data": 2}, "does not divide among --data=2"),
        ({"chips": -2}, "--chips must be at least 1"),
        ({"tensor": 0}, "--tensor must be at least 1"),
        ({"context": -1}, "--context must not be negative"),
        ({"context": 131_072}, "takes sequences of 131,072 tokens"),
        ({"prompt": 200_000}, "--prompt: llama-3.1-8b takes sequences of"),
        ({"prompt": 0}, "--prompt must be at least 1"),
        ({"prefix": 10}, "give --prompt too"),
        ({"tokens_per_step": 0.5}, "--tokens_per_step must be at least 1"),
        ({"tokens_per_step": float("nan")}, "--tokens_per_step must be at least 1"),
        ({"tokens_per_step": 4.0, "draft_tokens": 2}, "more than the 3"),
        ({"draft_model": "llama-3.2-1b"}, "nothing to draft"),
        ({"draft_model": "llama-9", "tokens_per_step": 2.0}, "no architecture"),
        ({"draft_weights": "fp8"}, "needs --draft_model"),
        ({"placement": "on-ship"}, "did you mean 'on-chip'"),
        ({"placement": "=hbm"}, "is no rule"),
        ({"placement": "layer/**=hbm,**=hbm"}, "matches no leaf"),
        ({"placement": "layers/**=hbm"}, "no rule covers"),
        ({"placement": "on-chip"}, "bytes over"),
        ({"pipeline": 40}, "has 32 layers"),
        ({"chips": 5, "tensor": 2}, "must multiply to the chips"),
        ({"model": "llama-3.1-70b", "chips": 1}, "bytes over"),
    ],
)
def test_wrong_questions_say_what_is_wrong(asked: dict[str, object], message: str) -> None:
    whole = {"model": "llama-3.1-8b", "chip": "h100", **asked}
    with pytest.raises((ExperimentError, ModelError, emu.EmuError)) as raised:
        predicted(Question(**whole))  # type: ignore[arg-type]
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_of_rules_says_which_line_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "rules"
    file.write_text("layers/**=hbm\n\neverything else off-chip\n")
    with pytest.raises(ExperimentError, match=r"rules, line 3: .* is no rule"):
        predicted(Question(model="qwen2.5-0.5b", chip="h100", placement=str(file)))
    file.write_text("# nothing\n")
    with pytest.raises(ExperimentError, match="no rules"):
        predicted(Question(model="qwen2.5-0.5b", chip="h100", placement=str(file)))


def test_replicas_of_one_chip_take_as_long_as_one_with_its_share() -> None:
    one = predicted(Question(model="llama-3.2-1b", chip="h100", batch=4))
    three = predicted(Question(model="llama-3.2-1b", chip="h100", batch=12, data=3))
    assert three.system.chips == 3
    assert three.seconds_per_step == one.seconds_per_step
    assert three.flops == 3 * one.flops
    assert three.memories == one.memories


def test_a_chip_of_ones_own_is_a_file() -> None:
    asked = {"model": "llama-3.2-1b", "context": 100}
    named = predicted(Question(**asked, chip="gaudi-3"))
    described = predicted(Question(**asked, chip="emu/catalogue/intel.toml"))
    given = predicted(Question(**asked, chip=emu.chip("gaudi-3"), stack=emu.stack("ideal")))
    assert described.seconds_per_step == given.seconds_per_step == named.seconds_per_step


def test_sensitivities_say_which_number_would_have_to_change() -> None:
    asked = Question(model="llama-3.2-1b", chip="a100-80gb", stack="gpt-fast", context=2000)
    found = predicted(asked)
    shown = as_json(found, sensitivity=True)["sensitivity"]
    sizes = [abs(one["elasticity"]) for one in shown]
    assert sizes == sorted(sizes, reverse=True)
    by_name = {one["number"]: one["elasticity"] for one in shown}
    # A step is bytes over bandwidth and launches: twice of both is half the time.
    launches = by_name["chip/kernel_s"]
    assert by_name["chip/hbm/bandwidth_bytes_per_s"] == pytest.approx(launches - 1, abs=0.02)
    assert 0.0 < launches < 0.5
    assert "sensitivity" not in as_json(found)
    text = as_text(found, sensitivity=True)
    assert "chip/hbm/bandwidth_bytes_per_s" in text
    assert "by how many per cent" in text
    shares = [line.split() for line in text.splitlines() if "/achieved_share" in line]
    assert shares
    assert all(0.1 < float(share[2]) <= 1 for share in shares)  # neither ms nor a unit behind it
    assert all(share[3] in ("measured", "fitted", "assumed", "vendor") for share in shares)
    assert "by how many per cent" not in as_text(found)


def test_sensitivities_of_a_draft_are_of_the_whole_step() -> None:
    asked = Question(
        model="llama-3.1-8b", chip="h100", context=2000, tokens_per_step=2.0, draft_tokens=3,
        draft_model="llama-3.2-1b",
    )  # fmt: skip
    found = predicted(asked)
    by_name = {one.name: one.value for one in found.elasticities}
    assert by_name["chip/hbm/bandwidth_bytes_per_s"] == pytest.approx(-1.0, abs=0.02)
