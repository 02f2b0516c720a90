"""What only an accelerator can show; each is skipped, counted and named where there is none."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import emu
from emu import device_kinds
from experiments import cliff
from models.cache import new_cache
from models.config import DecoderConfig
from models.shapes import shapes
from models.steps import decode_step
from tests.emu.test_residency import MIXED, assert_same_bits, step, weights

pytestmark = pytest.mark.usefixtures("compiled_in_full")

WIDTH = 1024
CONFIG = DecoderConfig(
    vocab_size=512,
    layers=2,
    width=256,
    heads=8,
    kv_heads=4,
    head_width=32,
    mlp_width=512,
    max_context=64,
    tied_embeddings=True,
)


@pytest.fixture
def accelerator(request: pytest.FixtureRequest) -> jax.Device:
    """The first device, of the kind that is asked for."""
    if jax.default_backend() != request.param:
        pytest.skip(f"needs a {request.param.upper()}")
    return jax.devices()[0]


on = functools.partial(pytest.mark.parametrize, "accelerator", indirect=True)


def random_weights() -> dict:
    leaves, structure = jax.tree.flatten(shapes(CONFIG))
    keys = jax.random.split(jax.random.key(0), len(leaves))
    return structure.unflatten(
        [0.1 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    )


@on(["gpu", "tpu"])
def test_logits_are_the_cpus(accelerator: jax.Device) -> None:
    tree, tokens = random_weights(), jnp.full((1, 1), 7)
    step = jax.jit(functools.partial(decode_step, CONFIG))
    found, _ = step(tree, new_cache(CONFIG, batch=1, length=32), tokens)
    with jax.default_device(jax.devices("cpu")[0]):
        tree = jax.device_put(tree, jax.devices("cpu")[0])
        expected, _ = step(tree, new_cache(CONFIG, batch=1, length=32), tokens)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@on(["gpu", "tpu"])
def test_the_hosts_memory_is_slower_than_the_devices_own(accelerator: jax.Device) -> None:
    device, host = emu.host(pair="memory-kind").memories
    assert host.bandwidth_bytes_per_s.value < device.bandwidth_bytes_per_s.value / 2


@on(["gpu"])
def test_the_cache_is_faster_than_the_memory_behind_it(accelerator: jax.Device) -> None:
    near, far = emu.host(pair="rotation").memories
    read_bytes = near.curves[0].read_bytes[-1]  # the largest that stays: least is for its start
    assert 1.2 * near.seconds(read_bytes, "float32") < far.seconds(read_bytes, "float32")


@on(["gpu"])
def test_the_caches_size_is_the_catalogues(accelerator: jax.Device) -> None:
    known = device_kinds.memory_of(accelerator.device_kind, "on-chip")
    if known is None:
        pytest.skip(f"needs a GPU of the catalogue, and this is {accelerator.device_kind!r}")
    found = emu.host(pair="rotation").memories[0].capacity_bytes.value
    assert 0.5 * known.capacity_bytes.value < found < 1.5 * known.capacity_bytes.value


@on(["gpu", "tpu"])
@pytest.mark.parametrize("pair", ["rotation", "memory-kind"])
def test_outputs_are_the_same_to_the_bit_wherever_weights_lie(
    accelerator: jax.Device, pair: str
) -> None:
    if accelerator.platform == "tpu" and pair == "rotation":
        pytest.skip("a TPU's on-chip memory is no cache")
    # Megabytes: of a few bytes it would take a million copies to outlast a cache.
    tree, x = weights(width=WIDTH), jnp.ones(WIDTH)
    plain = jax.jit(step)
    work = emu.Work(leaves=emu.leaves_of(tree))
    placement = emu.place(work, emu.System(emu.host(pair=pair)), MIXED)
    realized = emu.realize(plain, placement, tree)
    for _ in range(realized.copies + 1):
        assert_same_bits(realized(toy_cache(), x), plain(tree, toy_cache(), x))


def toy_cache() -> dict[str, jax.Array]:
    return {"kv": jnp.zeros((4, WIDTH)), "position": jnp.zeros((), jnp.int32)}


@on(["gpu", "tpu"])
def test_a_step_in_one_program_takes_no_longer_than_a_called_one(accelerator: jax.Device) -> None:
    tree = {"layers": random_weights()["layers"]}
    work = emu.Work(leaves=emu.leaves_of(tree))
    placement = emu.place(work, emu.System(emu.host(pair="memory-kind")), "on-chip")
    realized = emu.realize(cliff._step(CONFIG), placement, tree)
    hidden = jnp.ones((1, 1, CONFIG.width))
    caches = [new_cache(CONFIG, batch=1, length=32) for _ in range(2)]
    program = realized.steps_in_one(32)
    called = emu.measure(lambda cache: realized(cache, hidden)[1], carry=caches[0])
    in_one = emu.measure(lambda cache: program(cache, hidden)[1], carry=caches[1])
    assert in_one.median_s / 32 < called.median_s
