import jax
import jax.numpy as jnp
import pytest

from emu.chips import Chip, Curve, Memory, Sourced
from emu.errors import EmuError
from emu.system import System


def sourced(value, **more):
    return Sourced(value=value, source="a test", kind="assumed", **more)


def memory(name="sram", placement="on-chip", capacity=1000.0, **more):
    return Memory(
        name=name,
        placement=placement,
        capacity_bytes=sourced(capacity),
        bandwidth_bytes_per_s=sourced(100.0),
        latency_s=sourced(2.0),
        **more,
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"value": 1.0, "source": " ", "kind": "vendor"}, "has no source"),
        ({"value": 1.0, "source": "a", "kind": "guessed"}, "kind 'guessed'"),
        ({"value": "40 GB", "source": "a", "kind": "vendor"}, "must be a number in SI units"),
        ({"value": None, "source": "a", "kind": "vendor"}, "must be a number"),
        ({"value": -1, "source": "a", "kind": "vendor"}, "negative"),
        ({"value": float("nan"), "source": "a", "kind": "vendor"}, "NaN"),
        ({"value": 1, "source": "a", "kind": "assumed", "low": 2, "high": 3}, "does not hold 1"),
    ],
)
def test_a_number_without_a_source_or_with_nonsense_is_refused(fields, message):
    with pytest.raises(EmuError, match=message):
        Sourced(**fields)


def test_a_memory_is_checked():
    with pytest.raises(EmuError, match="neither 'on-chip' nor 'off-chip'"):
        memory(placement="near")
    with pytest.raises(EmuError, match="'assumed' one with a range"):
        memory(capacity=0)
    with pytest.raises(EmuError, match="'assumed' one with a range"):
        memory(capacity=float("inf"))
    with pytest.raises(EmuError, match="must be Sourced"):
        Memory(
            name="a",
            placement="on-chip",
            capacity_bytes=8,  # type: ignore[arg-type]
            bandwidth_bytes_per_s=sourced(1),
            latency_s=sourced(1),
        )


def test_a_chip_finds_memories_by_name_and_by_class_and_names_what_it_has():
    chip = Chip(name="c", vendor="v", memories=(memory(), memory("hbm", "off-chip")))
    assert chip.memory("hbm") is chip.memories[1]
    assert chip.memory("on-chip") is chip.memories[0]
    with pytest.raises(EmuError, match=r"no memory 'dram': it has sram \(on-chip\), hbm"):
        chip.memory("dram")
    with pytest.raises(EmuError, match="two memories of one name"):
        Chip(name="c", vendor="v", memories=(memory(), memory()))
    with pytest.raises(EmuError, match="has no memory"):
        Chip(name="c", vendor="v", memories=())


@pytest.mark.newest
def test_numbers_are_leaves_and_names_are_not():
    system = System(Chip(name="c", vendor="v", memories=(memory(),)), chips=2)
    assert jax.tree.leaves(system.chip) == [1000.0, 100.0, 2.0]
    assert jax.tree.leaves(system)[:3] == [1000.0, 100.0, 2.0]  # then the stack's
    gradient = jax.grad(lambda s: 10 / s.chip.memories[0].bandwidth_bytes_per_s.value)(system)
    assert float(gradient.chip.memories[0].bandwidth_bytes_per_s.value) == pytest.approx(-1e-3)
    # Axis numbers of 0 stand where a capacity of 0 would be refused: rebuilding does not check.
    axes = jax.tree.map(lambda _: 0, system)
    many = jax.tree.map(lambda x: jnp.asarray([x, 2 * x]), system)
    doubled = jax.vmap(lambda s: s.chip.memories[0].latency_s.value, in_axes=(axes,))(many)
    assert doubled.tolist() == [2.0, 4.0]
    assert jax.tree.unflatten(jax.tree.structure(system), jax.tree.leaves(system)) == system


def test_a_system_is_checked():
    chip = Chip(name="c", vendor="v", memories=(memory(),))
    assert System(chip, chips=8, data=2).chips_per_replica == 4
    with pytest.raises(EmuError, match="tensor must be a whole number of at least 1, not 0"):
        System(chip, tensor=0)
    with pytest.raises(EmuError, match="3 chips cannot hold 2 equal replicas"):
        System(chip, chips=3, data=2)


def test_seconds_of_a_read_come_from_the_curve_of_its_dtype():
    curve = Curve(
        dtype="int8",
        read_bytes=(100.0, 10_000.0),
        bytes_per_s=(10.0, 100.0),  # 10 s and 100 s
        source="a test",
        kind="measured",
    )
    dram = memory(curves=(curve,))
    assert dram.seconds(100, "int8") == pytest.approx(10)
    assert dram.seconds(1_000, "int8") == pytest.approx(10**1.5)  # halfway in both logarithms
    assert dram.seconds(50_000, "int8") == pytest.approx(500)  # the largest one's bandwidth
    assert dram.seconds(1, "int8") == pytest.approx(10)  # never below the smallest one's time
    assert dram.seconds(0, "int8") == 0
    assert dram.seconds(1_000, "float32") == pytest.approx(2 + 1_000 / 100)  # no curve
    assert dram.seconds(0, "float32") == 0


@pytest.mark.parametrize(
    ("sizes", "speeds", "message"),
    [
        ((), (), "one bandwidth for each size"),
        ((1.0,), (1.0, 2.0), "one bandwidth for each size"),
        ((2.0, 1.0), (1.0, 1.0), "must rise"),
        ((1.0, 2.0), (1.0, 0.0), "must be positive"),
    ],
)
def test_a_curve_is_checked(sizes, speeds, message):
    with pytest.raises(EmuError, match=message):
        Curve(dtype="int8", read_bytes=sizes, bytes_per_s=speeds, source="a test", kind="measured")
