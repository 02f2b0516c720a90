import numpy as np
import pytest

from experiments.errors import ExperimentError
from experiments.session_time import Service
from experiments.workloads.drafts import acceptance, kept, kept_of
from experiments.workloads.workload import names, workload


def test_a_draft_is_as_likely_to_be_accepted_as_the_one_before_it() -> None:
    assert kept(0.5, 3) == 1 + 0.5 + 0.25 + 0.125
    assert acceptance(1.875, 3) == pytest.approx(0.5)
    # Seven drafts on HumanEval, by position (huggingface.co/Inferact/Kimi-K3.1-Pro-DSpark-preview).
    published = [0.76, 0.56, 0.41, 0.30, 0.23, 0.18, 0.14]
    found = acceptance(3.585, 7) ** np.arange(1, 8)
    np.testing.assert_allclose(found, published, atol=0.0145)


def test_each_workload_keeps_what_is_published_of_five_drafts_and_code_more_than_chat() -> None:
    of = {name: workload(name) for name in names()}
    for name, one in of.items():
        assert kept_of(one, 5) == pytest.approx(one.figure("kept_of_5_drafts")), name
        assert kept_of(one, 0) == 1
    three = {name: kept_of(one, 3) for name, one in of.items()}
    assert three["code_completion"] > three["agentic"] > three["chat"] > 2


def test_a_service_keeps_what_it_says_or_what_its_workload_does() -> None:
    agent = workload("agentic")
    assert Service(drafted=3).writing(agent).tokens_per_step == kept_of(agent, 3)
    assert Service(drafted=3, kept_per_step=2.0).writing(agent).tokens_per_step == 2
    assert Service().writing(None).tokens_per_step == 1
    with pytest.raises(ExperimentError, match="a trace does not say what drafts are worth"):
        Service(drafted=3).writing(None)
    with pytest.raises(ExperimentError, match="5 drafts keep from 1 to 6 tokens, not 7"):
        acceptance(7.0, 5)
