import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from emu import ram
from emu.chips import Chip, Memory, Sourced
from emu.errors import EmuError
from emu.memory_kinds import stored
from emu.placement import place
from emu.residency import realize
from emu.rotation import CACHES_READ, copies_needed, rotated
from emu.system import System
from emu.work import Leaf, Work, leaves_of

# Equal to the bit is what users' programs are.
pytestmark = pytest.mark.usefixtures("compiled_in_full")


def sourced(value, **more):
    return Sourced(value=value, source="a test", kind="assumed", **more)


def memory(name, placement, capacity, mechanism, **more):
    return Memory(
        name=name,
        placement=placement,
        capacity_bytes=sourced(capacity, **more),
        bandwidth_bytes_per_s=sourced(1e9),
        latency_s=sourced(1e-7),
        mechanism=mechanism,
    )


def machine(cache=1_000, mechanism="rotation", **more):
    names = ("llc", "dram") if mechanism != "memory-kind" else ("device", "pinned_host")
    memories = (
        memory(names[0], "on-chip", cache, mechanism, **more),
        memory(names[1], "off-chip", 10**12, mechanism),
    )
    return System(Chip(name="here", vendor="a test", memories=memories))


def placed(weights, rules, system=None):
    return place(Work(leaves=leaves_of(weights)), system or machine(10**6), rules)


def weights(layers=3, width=8, dtype=jnp.float32):
    keys = iter(jax.random.split(jax.random.key(0), 2 * layers + 1))
    return {
        "layers": {
            i: {
                "up": {"kernel": jax.random.normal(next(keys), (width, width), dtype)},
                "down": {"kernel": jax.random.normal(next(keys), (width, width), dtype)},
            }
            for i in range(layers)
        },
        "norm": {"scale": jnp.ones(width)},
    }


def step(tree, cache, x):
    for layer in tree["layers"].values():
        x = x + jnp.tanh(layer["down"]["kernel"] @ jnp.tanh(layer["up"]["kernel"] @ x))
    x = x * tree["norm"]["scale"]
    return x, {"kv": cache["kv"].at[0].set(x), "position": cache["position"] + 1}


def new_cache():
    return {"kv": jnp.zeros((4, 8)), "position": jnp.zeros((), jnp.int32)}


MIXED = [("layers[:1]/**", "on-chip"), ("**/up/**", "off-chip"), ("**", "on-chip")]


def assert_same_bits(ours, theirs):
    ours, theirs = jax.tree.leaves(ours), jax.tree.leaves(theirs)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize("mechanism", ["rotation", "memory-kind"])
@pytest.mark.parametrize("rules", ["on-chip", "off-chip", "fit", MIXED])
@pytest.mark.newest
def test_the_outputs_are_those_of_the_plain_function_bit_for_bit(mechanism, rules):
    tree, x = weights(), jnp.linspace(-1, 1, 8)
    plain = jax.jit(step, donate_argnums=1)
    # 1,000 bytes of cache: not all of the weights' 1,568 fit, and off chip needs several copies.
    system = machine(1_000 if rules == "fit" else 1_600, mechanism)
    real = realize(plain, placed(tree, rules, system), tree)
    ours, theirs = new_cache(), new_cache()
    for _ in range(2 * real.copies + 1):  # every copy, and round again
        mine, ours = real(ours, x)
        his, theirs = plain(tree, theirs, x)
        assert_same_bits(mine, his)
        assert_same_bits(ours, theirs)
    assert (real.copies > 1) == (mechanism == "rotation" and rules != "on-chip")


@pytest.mark.parametrize("mechanism", ["rotation", "memory-kind"])
@pytest.mark.newest
def test_what_the_function_donates_is_donated(mechanism):
    tree, x, cache = weights(), jnp.ones(8), new_cache()
    real = realize(
        jax.jit(step, donate_argnums=1), placed(tree, "off-chip", machine(10**5, mechanism)), tree
    )
    real(cache, x)
    assert cache["kv"].is_deleted()
    assert not x.is_deleted()
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(tree))


def test_every_off_chip_copy_is_a_buffer_of_its_own_and_on_chip_there_is_one():
    seen = []

    def look(tree):
        seen.append(jax.tree.map(lambda leaf: leaf.unsafe_buffer_pointer(), tree))

    tree = weights()
    real = realize(look, placed(tree, MIXED, machine(2_000)), tree)
    assert real.copies == CACHES_READ * 2_000 // (2 * 256) + 1  # two leaves of 256 bytes move
    for _ in range(real.copies):
        real()
    pointers = [
        [t["layers"][i][name]["kernel"] for t in seen] for i, name in ((1, "up"), (2, "up"))
    ]
    assert all(len(set(moving)) == real.copies for moving in pointers)
    assert not set(pointers[0]) & set(pointers[1])
    for i, name in ((0, "up"), (0, "down"), (2, "down")):
        assert len({t["layers"][i][name]["kernel"] for t in seen}) == 1
    assert real.held_bytes == 1_568 + (real.copies - 1) * 512
    real()
    assert seen[-1] == seen[0]  # round again


@pytest.mark.parametrize("committed", [False, True])
def test_all_copies_go_through_one_compiled_program(committed):
    given = weights()
    if committed:
        given = jax.device_put(given, jax.devices()[0])

    @functools.partial(jax.jit, donate_argnums=1)
    def step(weights, state):
        return state + weights["norm"]["scale"]

    realized = realize(step, placed(given, "off-chip"), given)
    assert realized.copies > 2
    state = jnp.zeros(8)
    for _ in range(realized.copies):
        realized(state.copy())
    assert step._cache_size() == 1


@pytest.mark.parametrize(
    ("off_chip", "cache", "copies"),
    [
        (0, 32e6, 1),
        (32e6, 32e6, 8),
        (100e6, 32e6, 3),
        (256e6, 32e6, 1),
        (1e9, 32e6, 1),
        (1e6, 0, 1),
    ],
)
def test_enough_copies_to_read_eight_caches_before_one_comes_round(off_chip, cache, copies):
    assert copies_needed(int(off_chip), cache) == copies
    assert off_chip == 0 or copies * off_chip >= CACHES_READ * cache


def test_a_cache_counts_up_to_where_it_still_holds_a_part():
    tree = weights()
    real = realize(step, placed(tree, "off-chip", machine(1_568, high=1_568 * 3)), tree)
    assert real.copies == 3 * CACHES_READ


def test_copies_that_do_not_fit_in_ram_are_refused(monkeypatch):
    monkeypatch.setattr(ram, "available_bytes", lambda: 1_000_000)
    tree = weights()
    with pytest.raises(EmuError, match=r"1,568 off-chip bytes in 7 leaves need 2,041 copies .* GB"):
        realize(step, placed(tree, "off-chip", machine(400_000)), tree)


def test_ram_is_the_control_groups_where_that_is_less(tmp_path):
    assert ram.total_bytes(tmp_path) > 10**8
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    assert ram.total_bytes(tmp_path) == 1_000_000
    assert ram.available_bytes(tmp_path) == int(600_000 * ram.PLANNED_SHARE)
    (tmp_path / "memory.max").write_text("max\n")
    assert ram.available_bytes(tmp_path) > 10**6
    first = tmp_path / "version1" / "memory"
    first.mkdir(parents=True)
    (first / "memory.limit_in_bytes").write_text("2000000\n")
    (first / "memory.usage_in_bytes").write_text("3000000\n")
    assert ram.total_bytes(first.parent) == 2_000_000
    assert ram.available_bytes(first.parent) == 0


@pytest.mark.parametrize("mechanism", ["rotation", "memory-kind"])
@pytest.mark.newest
def test_nnx_states_lists_and_small_dtypes_are_realized(mechanism):
    graph, state = nnx.split(nnx.Linear(8, 8, rngs=nnx.Rngs(0)))
    apply = jax.jit(lambda state, x: nnx.merge(graph, state)(x))
    x = jnp.linspace(0, 1, 8)
    rules = [("kernel", "off-chip"), ("bias", "on-chip")]
    real = realize(apply, placed(state, rules, machine(10**4, mechanism)), state)
    assert_same_bits(real(x), apply(state, x))
    assert_same_bits(real(x), apply(state, x))

    packed = [jnp.arange(-4, 4, dtype=jnp.int8), jnp.ones(3, jnp.bfloat16), jnp.ones(4, jnp.int4)]
    total = jax.jit(lambda tree: sum(leaf.astype(jnp.float32).sum() for leaf in tree))
    real = realize(total, placed(packed, "off-chip", machine(100, mechanism)), packed)
    for _ in range(3):
        assert_same_bits(real(), total(packed))


def test_weights_may_be_any_argument_and_numpy_arrays():
    tree = jax.tree.map(np.asarray, weights())
    plain = jax.jit(lambda x, cache, tree, *, gain: step(tree, cache, gain * x)[0])
    real = realize(plain, placed(tree, MIXED, machine(2_000)), tree, argnum=2)
    for _ in range(3):
        x = jnp.ones(8)
        assert_same_bits(real(x, new_cache(), gain=2.0), plain(x, new_cache(), tree, gain=2.0))


@pytest.mark.newest
def test_memory_kinds_keep_static_arguments_static_and_later_donations_in_place():
    def scaled(config, tree, x, cache, flag=True):
        assert config == ("a", 2)
        assert flag in (True, False)  # fails on a traced value
        y, cache = step(tree, cache, x * config[1])
        return (y if flag else -y), cache

    tree, x = weights(), jnp.ones(8)
    plain = jax.jit(scaled, static_argnums=0, static_argnames="flag", donate_argnums=3)
    placement = placed(tree, MIXED, machine(10**5, "memory-kind"))
    real = realize(plain, placement, tree, argnum=1)
    for flag in (True, False, True):
        cache = new_cache()
        ours = real(("a", 2), x, cache, flag=flag)
        assert cache["kv"].is_deleted()
        assert_same_bits(ours, plain(("a", 2), tree, x, new_cache(), flag=flag))
    with pytest.raises(EmuError, match="must be hashable"):
        real(["a"], x, new_cache())


def test_memory_kinds_refuse_what_they_cannot_tell_apart():
    tree, x = weights(), jnp.ones(8)
    placement = placed(tree, MIXED, machine(10**5, "memory-kind"))
    plain = jax.jit(lambda tree, config, x, gain: x * gain, static_argnums=1)
    real = realize(plain, placement, tree)
    with pytest.raises(EmuError, match=r"pass jnp.asarray\(number\)"):
        real("config", x, 2.0)
    real("config", x, jnp.asarray(2.0))


@pytest.mark.newest
def test_off_chip_by_memory_kind_is_kept_in_host_memory_and_a_cpu_says_what_that_means():
    tree = weights()

    def look(held):
        return jax.tree.map(lambda leaf: leaf + 0, held)

    system = machine(10**5, "memory-kind")
    real = realize(jax.jit(look), placed(tree, MIXED, system), tree)
    assert_same_bits(real(), tree)
    kinds = [
        m.sharding.memory_kind for m in stored(jax.tree.leaves(tree)[:2], ["device", "pinned_host"])
    ]
    assert kinds == ["device", "pinned_host"]
    if jax.default_backend() == "cpu":
        assert "one memory" in real.notes[0]
    assert real.memories == ("device", "pinned_host")


def test_what_cannot_be_made_real_is_refused():
    tree = weights()
    plain = functools.partial(step)
    with pytest.raises(EmuError, match="argnum must be the position"):
        realize(plain, placed(tree, "on-chip"), tree, argnum=-1)
    with pytest.raises(EmuError, match="no pair that this machine can tell apart"):
        realize(plain, placed(tree, "on-chip", machine(10**6, None)), tree)
    unknown = System(
        Chip(
            name="odd",
            vendor="a test",
            memories=(
                memory("vmem", "on-chip", 10**6, "memory-kind"),
                memory("hbm", "off-chip", 10**9, "memory-kind"),
            ),
        )
    )
    with pytest.raises(EmuError, match="no memory kind 'vmem': it has device"):
        realize(plain, placed(tree, "on-chip", unknown), tree)
    with pytest.raises(EmuError, match=r"says nothing of 'layers/3/down/kernel'; the nearest is"):
        realize(plain, placed(tree, "on-chip"), weights(layers=4))
    with pytest.raises(EmuError, match=r"the weights lack 'layers/2/down/kernel'"):
        realize(plain, placed(tree, "on-chip"), weights(layers=2))
    with pytest.raises(
        EmuError, match=r"is bfloat16\[8, 8\] here and was placed as float32\[8, 8\]"
    ):
        realize(plain, placed(tree, "on-chip"), weights(dtype=jnp.bfloat16))


class Doubling:
    """A step whose kernel, here a product, is asked for with the weights and where they are."""

    def __call__(self, tree, carry, x):
        return tree["a"] * x, carry + 1

    def in_one_kernel(self, tree, placement):
        (part,) = placement.residencies
        assert part.memory == "llc"
        return lambda steps: lambda carry, x: (tree["a"] * x, carry + steps)


def test_a_scratchpad_takes_functions_that_have_a_kernel():
    tree = {"a": jnp.full((), 2.0)}
    placement = placed(tree, "on-chip", machine(10**6, "persistent-kernel"))
    real = realize(Doubling(), placement, tree)
    assert real.mechanism == "persistent-kernel"
    assert real(0, jnp.ones(())) == (2, 1)
    assert real.steps_in_one(5)(0, jnp.ones(())) == (2, 5)
    assert "once for each program of several steps" in real.notes[-1]
    with pytest.raises(EmuError, match="step has no method in_one_kernel, and weights stay in a"):
        realize(step, placement, tree)
    with pytest.raises(EmuError, match="takes the weights first, not as argument 1"):
        realize(Doubling(), placement, tree, argnum=1)


def test_a_stacked_leaf_split_between_memories_is_refused():
    stack = {"layers": {"kernel": jnp.ones((6, 4, 4))}}
    placement = placed(stack, [("layers[:2]/**", "on-chip"), ("**", "off-chip")])
    with pytest.raises(EmuError, match="is split between memories"):
        realize(lambda tree: tree, placement, stack)
    whole = placed(stack, [("layers[:]/**", "on-chip")])
    assert_same_bits(realize(lambda tree: tree, whole, stack)(), stack)


def test_a_cache_may_be_placed_on_chip_only():
    tree = weights()
    cache = Leaf(path="cache/kv", shape=(4, 8), dtype="float32", kind="cache")
    work = Work(leaves=(*leaves_of(tree), cache))
    on_chip = place(work, machine(10**6), [("cache/**", "on-chip"), ("**", "off-chip")])
    assert realize(step, on_chip, tree).copies > 1
    off_chip = place(work, machine(10**6), "off-chip")
    with pytest.raises(EmuError, match="'cache/kv' is placed in dram"):
        realize(step, off_chip, tree)


def test_empty_weights_and_empty_leaves_take_no_copies():
    assert realize(lambda tree, x: x, placed({}, "off-chip"), {})(3) == 3
    hollow = {"a": jnp.zeros((0, 4)), "b": jnp.ones(4)}
    rules = [("a", "off-chip"), ("b", "on-chip")]
    real = realize(lambda tree: tree, placed(hollow, rules), hollow)
    assert real.copies == 1
    assert_same_bits(real(), hollow)
    lists = rotated([hollow["a"], hollow["b"]], [True, False], 1e6)
    assert len(lists) == 1


def test_an_exact_part_of_the_weights_that_stays_hot_is_noted_where_it_cannot():
    tree = weights()
    real = realize(step, placed(tree, MIXED, machine(1_200)), tree)
    assert "is a cache" in real.notes[0]
