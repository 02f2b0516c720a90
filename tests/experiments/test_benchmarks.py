"""The benchmarks' arithmetic, and that they refuse to time what computes something else."""

from pathlib import Path

import numpy as np
import pytest

import emu
from experiments.benchmarks import decoding, llamacpp, precision
from experiments.benchmarks.contest import Contestant, Outcome, contest
from experiments.errors import ExperimentError
from experiments.workloads import humaneval
from models import named
from models.checkpoint import open_checkpoint
from models.weights import load_weights

GOLDEN = Path(__file__).parents[1] / "golden"


def latency(median_s, *, disturbed=False):
    return emu.Latency.of([median_s] * 10, [disturbed] * 10)


def test_a_ratio_is_taken_round_by_round_and_leaves_disturbed_rounds_out():
    outcome = Outcome(
        turns={
            "ours": (latency(1.0), latency(2.0), latency(9.0, disturbed=True)),
            "peer": (latency(3.0), latency(4.0), latency(1.0)),
        }
    )
    ratio = outcome.speedup("ours", "peer")
    assert (ratio.median, ratio.rounds, ratio.disturbed_rounds) == (2.5, 3, 1)  # of 3 and of 2
    assert outcome.seconds("ours") == 1.5


def test_contestants_take_turns_in_an_order_that_turns():
    taken = []

    def turn(name):
        taken.append(name)
        return latency(1.0)

    contestants = [Contestant(name=n, turn=lambda n=n: turn(n)) for n in "abc"]
    outcome = contest(contestants, 3, "test")
    assert "".join(taken) == "abcbcacab"
    assert [len(turns) for turns in outcome.turns.values()] == [3, 3, 3]


def test_a_decoder_whose_tokens_are_wrong_is_not_timed(monkeypatch):
    checkpoint = open_checkpoint(GOLDEN / "tiny_llama")
    weights = load_weights(checkpoint, "float32")
    monkeypatch.setattr(decoding, "SLOTS", 128)
    assert decoding.decoder("ours", checkpoint.config, weights, [5, 6, 7]).turn().count > 0
    decode = decoding._decode

    def wrong(*given):
        tokens, latency = decode(*given)
        return [tokens[0] + 1, *tokens[1:]], latency

    monkeypatch.setattr(decoding, "_decode", wrong)
    with pytest.raises(ExperimentError, match=r"ours decoded .* below the likeliest"):
        decoding.decoder("ours", checkpoint.config, weights, [5, 6, 7])


def test_a_turn_with_other_tokens_than_before_is_refused(monkeypatch):
    checkpoint = open_checkpoint(GOLDEN / "tiny_llama")
    weights = load_weights(checkpoint, "float32")
    monkeypatch.setattr(decoding, "SLOTS", 128)
    ours = decoding.decoder("ours", checkpoint.config, weights, [5, 6, 7])
    monkeypatch.setattr(decoding, "_decode", lambda *_: ([0] * 49, latency(1.0)))
    with pytest.raises(ExperimentError, match=r"ours decoded .* before"):
        ours.turn()


@pytest.mark.parametrize(("kind", "tolerance"), [("F32", 0), ("BF16", 2**-8), ("Q8_0", 2**-6)])
def test_a_requantised_file_holds_the_same_weights(tmp_path, kind, tolerance):
    source = GOLDEN / "tiny_mixed.gguf"
    again = open_checkpoint(llamacpp.requantised(source, kind, tmp_path))
    before = open_checkpoint(source)
    assert again.config == before.config
    for name in before.tensor_names:
        want = np.asarray(before.read(name), np.float32)
        np.testing.assert_allclose(
            np.asarray(again.read(name), np.float32), want, atol=tolerance * np.abs(want).max()
        )
    assert list(tmp_path.iterdir()) == [tmp_path / f"tiny_mixed.from-bench.{kind}.gguf"]


@pytest.mark.usefixtures("compiled_in_full")
def test_narrow_weights_mostly_choose_the_same_token():
    checkpoint = open_checkpoint(named.resolve(named.DEFAULT_MODEL))
    weights = {d: load_weights(checkpoint, d) for d in ("float32", "bfloat16", "int8")}
    every = [checkpoint.tokenizer.encode(t.prompt + t.solution) for t in humaneval.tasks(13)]
    # Padded to one length, so that a decoder is compiled once for each kind of cache.
    texts = [text for text in every if 128 < len(text) <= 192]
    assert len(texts) == 8
    wanted = weights.pop("float32")
    shares, tokens = precision.top1_agreement(checkpoint.config, wanted, weights, texts)
    assert tokens == sum(map(len, texts))
    assert shares["bfloat16"] >= 0.99
    assert 0.95 <= shares["int8"] < 1
