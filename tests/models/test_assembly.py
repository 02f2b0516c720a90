"""Tensors renamed, cut apart and stacked. Well under a second."""

import numpy as np
import pytest

from models.assembly import Part, assemble
from models.errors import ModelError
from models.families.rotary_pairs import halves
from models.stored import StoredTensor

INNER = {
    "mlp.experts.*.up.weight": "mlp/experts/up/kernel",
    "both": (
        Part(path="gate/kernel", take=lambda x: x[..., ::2].swapaxes(1, 2)),
        Part(path="up/kernel", take=lambda x: x[..., 1::2].swapaxes(1, 2)),
    ),
}


def stored(**arrays):
    return {
        name: StoredTensor(shape=values.shape, dtype="F32", read=lambda v=values: v)
        for name, values in arrays.items()
    }


def test_experts_are_stacked_in_the_order_of_their_numbers():
    arrays = {f"model.layers.3.mlp.experts.{n}.up.weight": np.full((2, 5), n) for n in range(11)}
    (path, tensor), *rest = assemble(stored(**arrays), {}, INNER, "here").items()
    assert not rest
    assert path == "layers/3/mlp/experts/up/kernel"
    assert tensor.shape == (11, 2, 5)
    np.testing.assert_array_equal(tensor.read()[:, 0, 0], np.arange(11))


@pytest.mark.parametrize("there", [[1], [0, 2], [0, 1, 3]])
def test_a_missing_expert_is_refused(there):
    arrays = {f"model.layers.0.mlp.experts.{n}.up.weight": np.ones((2, 2)) for n in there}
    with pytest.raises(ModelError, match=r"here: layers/0/mlp/experts/up/kernel: experts .* not"):
        assemble(stored(**arrays), {}, INNER, "here")


def test_experts_of_different_shapes_are_refused():
    arrays = {f"model.layers.0.mlp.experts.{n}.up.weight": np.ones((2, n + 1)) for n in range(2)}
    with pytest.raises(ModelError, match="experts differ in shape"):
        assemble(stored(**arrays), {}, INNER, "here")


def test_a_fused_tensor_is_cut_apart_without_reading_it():
    values = np.arange(2 * 3 * 8).reshape(2, 3, 8)

    def read():
        raise AssertionError("read too early")

    tensor = StoredTensor(shape=values.shape, dtype="F32", read=read)
    ours = assemble({"model.layers.0.both": tensor}, {}, INNER, "here")
    assert ours["layers/0/gate/kernel"].shape == ours["layers/0/up/kernel"].shape == (2, 4, 3)
    ours = assemble(stored(**{"model.layers.0.both": values}), {}, INNER, "here")
    np.testing.assert_array_equal(ours["layers/0/up/kernel"].read()[1, :, 2], [41, 43, 45, 47])


def test_unknown_names_stay():
    ours = assemble(stored(**{"model.layers.0.odd": np.ones(1), "odd": np.ones(1)}), {}, {}, "")
    assert set(ours) == {"model.layers.0.odd", "odd"}


def test_rotary_pairs_become_halves():
    # One head of 6 channels, of which the last 4 turn: pairs (2, 3) and (4, 5).
    take = halves(head_width=6, turning=4)
    rows = np.arange(12)[:, None]
    assert take(rows)[:, 0].tolist() == [0, 1, 2, 4, 3, 5, 6, 7, 8, 10, 9, 11]
