import pytest

from experiments import devices, placements
from experiments.errors import ExperimentError


def test_the_device_that_is_there_passes():
    devices.check(None)
    devices.check("cpu")


@pytest.mark.parametrize(("asked", "remedy"), [("gpu", r"jax\[cuda12\]"), ("tpu", r"jax\[tpu\]")])
def test_no_accelerator_is_a_line_with_a_remedy(asked, remedy):
    with pytest.raises(ExperimentError, match=rf"--device={asked}, and JAX found cpu .*{remedy}"):
        devices.check(asked)


def test_the_pair_is_found_by_the_kind_of_device(monkeypatch):
    assert placements.found_pair("found") == "rotation"
    assert placements.found_pair("memory-kind") == "memory-kind"
    monkeypatch.setattr(placements.jax, "default_backend", lambda: "tpu")
    assert placements.found_pair("found") == "memory-kind"
