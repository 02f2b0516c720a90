"""What the accelerators' own compilers make of each step, on a machine without an accelerator.

Lowering (`tests/experiments/test_lowering.py`) ends where these begin: what of the module is
copied, merged or dropped, and whether a kernel fits into VMEM. Each is skipped, counted and named
where its compiler is not installed.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, SingleDeviceSharding, use_abstract_mesh

import emu
import kernels
import kernels.products
from emu import probe, streams
from experiments import cliff, engine, persistent
from experiments.errors import ExperimentError
from kernels.persistent import resident_bytes, room_bytes
from models.cache import new_cache
from models.config import DecoderConfig
from models.shapes import shapes
from tests.emu.test_residency import machine
from tests.emu.xla_exchanges import exchanges_of
from tests.hardware import compilers

pytestmark = pytest.mark.usefixtures("compiled_in_full")

# SmolLM2-135M's sizes; what XLA makes of one layer is not what it makes of two.
CONFIG = DecoderConfig(
    vocab_size=2048,
    layers=2,
    width=576,
    heads=9,
    kv_heads=3,
    head_width=64,
    mlp_width=1536,
    max_context=2048,
    tied_embeddings=True,
)


@pytest.fixture(autouse=True)
def as_on_an_accelerator(monkeypatch):
    """Without the CPU's native products, which no function traced for an accelerator has."""
    for module in (kernels, kernels.products):
        monkeypatch.setattr(module, "native", lambda: False)


@pytest.fixture(scope="module", params=["v5e", "h100"])
def device(request):
    return getattr(compilers, request.param)()[0]


def on(device, tree, kind=None):
    """The shapes of what is on the device, in one of its memories."""
    sharding = SingleDeviceSharding(device, memory_kind=kind)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def total_bytes(tree):
    return sum(math.prod(x.shape) * jnp.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree))


def fusions(compiled):
    """How many kernels of several operations: a vector's product with a matrix is one."""
    text = compiled.as_text()
    return text[text.index("ENTRY ") :].count(" fusion(")


def inputs(config=CONFIG, scanned=False):
    cache = functools.partial(new_cache, config, batch=1, length=64, scanned=scanned)
    return jax.eval_shape(cache), jax.ShapeDtypeStruct((1, 1, config.width), jnp.float32)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_step_reads_its_weights_where_they_lie(device, dtype):
    tree, (cache, hidden) = shapes(CONFIG, dtype), inputs()
    token = jax.ShapeDtypeStruct((1,), jnp.int32)
    layers = {"layers": tree["layers"]}
    decode = engine._step(CONFIG, None).lower(*on(device, (tree, cache, token)), None).compile()
    alone = cliff._step(CONFIG).lower(*on(device, (layers, cache, hidden))).compile()
    for program in (decode, alone):
        memory = program.memory_analysis()
        assert memory.alias_size_in_bytes >= total_bytes(cache)  # written where it lies
        # Nothing is converted or laid out anew as a whole.
        assert memory.temp_size_in_bytes < total_bytes(layers) / CONFIG.layers


def test_steps_in_one_program_are_all_there(device):
    tree = {"layers": shapes(CONFIG, "bfloat16")["layers"]}
    found = []
    for steps in (1, 4):
        program = emu.one_program.steps_in_one(cliff._step(CONFIG), [None], steps).func
        given = (tree,), jax.ShapeDtypeStruct((), jnp.float32), *inputs()
        compiled = program.lower(*on(device, given)).compile()
        assert compiled.memory_analysis().temp_size_in_bytes < total_bytes(tree) / 4
        found.append(fusions(compiled))
    assert found[1] - found[0] > 0.8 * 3 * found[0]  # none of the later steps' is merged or dropped


@pytest.mark.parametrize("dtype", streams.DTYPES)
def test_what_measures_a_memory_reads_as_often_as_it_says(device, dtype):
    side, times, repeats = 1024, 4, 3
    matrix = jax.eval_shape(functools.partial(streams._matrix, dtype, side))
    given = on(device, (jax.ShapeDtypeStruct((side,), jnp.float32), (matrix,) * times))
    compiled = streams._chain.lower(*given, repeats, False).compile()
    assert fusions(compiled) == times * repeats + 1  # and the division at the end
    assert compiled.memory_analysis().temp_size_in_bytes < total_bytes(matrix)


@pytest.mark.parametrize("stacked", [False, True])
def test_weights_of_the_hosts_memory_stay_there(stacked):
    (tpu, *_) = compilers.v5e()  # of a GPU, JAX knows no memories ahead of time
    config = dataclasses.replace(CONFIG, layers=6)
    tree = {"layers": shapes(config, "bfloat16", scanned=stacked)["layers"]}
    held = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree)
    work = emu.Work(leaves=emu.leaves_of(held))
    placement = emu.place(work, machine(10**9, "memory-kind"), "off-chip")
    program = emu.realize(cliff._step(config), placement, held).steps_in_one(1)
    trees, zero = program.args
    given = on(tpu, (zero, *inputs(config, scanned=stacked)))
    compiled = program.func.lower(on(tpu, trees, "pinned_host"), *given).compile()
    memory = compiled.memory_analysis()
    assert memory.host_argument_size_in_bytes >= total_bytes(tree)
    assert memory.argument_size_in_bytes < total_bytes(tree) / 10
    if stacked:  # the layer at hand and the next: of layers held one by one all are fetched at once
        assert memory.temp_size_in_bytes < 3 * total_bytes(tree) / config.layers


def test_tpus_exchange_what_the_spread_says():
    devices = compilers.v5e("2x4")
    case = {"degrees": {"tensor": 8}, "scanned": False}
    found = exchanges_of(**case, devices=devices, jit=jax.jit)
    gathered, summed = found["emu"]
    assert gathered == ["all_gather", 512 * 4, 1]
    # The logits are gathered as a sum, of which each rank knows its own part.
    assert found["xla"] == [summed, ["all_reduce", *gathered[1:]]]


V5E = AbstractMesh(
    (), (), abstract_device=AbstractDevice(device_kind="TPU v5 lite", num_cores=1, platform="tpu")
)


@pytest.mark.parametrize(("dtype", "streams_too"), [("float32", True), ("bfloat16", False)])
def test_what_fits_into_vmem_as_we_count_does(dtype, streams_too):
    """As many layers of SmolLM2-135M as we say may stay, with as large a cache."""
    (tpu, *_) = compilers.v5e()
    config = dataclasses.replace(CONFIG, layers=30)
    with use_abstract_mesh(V5E):
        layers = persistent.stacked_shapes(shapes(config, dtype))
        resident = max(n for n in range(31) if resident_bytes(layers, n) <= room_bytes())
    if not streams_too:
        config = dataclasses.replace(CONFIG, layers=resident)
        layers = persistent.stacked_shapes(shapes(config, dtype))
    slots = max(n for n in range(8, 512, 8) if fits(config, n))
    cache = jax.eval_shape(functools.partial(new_cache, config, batch=1, length=slots))
    steps = jax.ShapeDtypeStruct((256, config.width), jnp.float32)
    run = jax.jit(functools.partial(persistent.several, config), static_argnums=1, donate_argnums=2)
    at = jax.ShapeDtypeStruct((256,), jnp.int32)
    with use_abstract_mesh(V5E):
        persistent.check_room(layers, resident)
        first, *rest = on(tpu, (layers, cache, steps, at))
        compiled = run.lower(first, resident, *rest).compile()
    assert resident in (7, 15)
    assert compiled.memory_analysis().alias_size_in_bytes >= total_bytes(cache.keys) * 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_kernels_of_the_smallest_sizes_compile_too(dtype):
    (tpu, *_) = compilers.v5e()
    thin = dataclasses.replace(CONFIG, width=8, mlp_width=8, layers=3)
    layers = persistent.stacked_shapes(shapes(thin, dtype))
    cache = jax.eval_shape(functools.partial(new_cache, thin, batch=1, length=32))
    steps, at = jax.ShapeDtypeStruct((256, 8), jnp.float32), jax.ShapeDtypeStruct((256,), jnp.int32)
    with use_abstract_mesh(V5E):
        first, *rest = on(tpu, (layers, cache, steps, at))
        for resident in (0, 3):
            run = functools.partial(persistent.several, thin)
            jax.jit(run, static_argnums=1).lower(first, resident, *rest).compile()
        for read_bytes in probe.HELD_READS:
            side = streams._side(dtype, read_bytes)
            matrix = jax.ShapeDtypeStruct((side, side), dtype)
            x = jax.ShapeDtypeStruct((side,), jnp.float32)
            streams._held_chain.lower(*on(tpu, (x, (matrix,) * 4)), 1024).compile()


def fits(config, slots):
    try:
        persistent.check_cache_room(config, slots)
    except ExperimentError:
        return False
    return True
