"""Every chip of the catalogue against one contract, and one figure of each worked out by hand."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import emu
from emu.catalogued import catalogue
from emu.chip_table import page, scaled
from emu.chip_units import check_chip
from emu.chips import WIDER, Sourced
from emu.errors import EmuError

CHIPS = {chip.name: chip for chip in catalogue()}
every = pytest.mark.parametrize("name", CHIPS)
DOCS = Path(__file__).parent.parent.parent / "docs"

# What the project's question names, and what its published measurements are of.
ASKED_FOR = [
    "a100-80gb",
    "h100",
    "h200",
    "b200",
    "gb200",
    "b300",
    "gb300",
    "rubin",
    "groq-lpu-v1",
    "groq-3-lpu",
    "wse-2",
    "wse-3",
    "mi250x",
    "mi250x-gcd",
    "mi300x",
    "mi325x",
    "mi355x",
    "tpu-v3",
    "tpu-v4",
    "tpu-v5e",
    "tpu-v5p",
    "tpu-v6e",
    "tpu-v7",
    "tpu-8i",
    "jalapeno",
    "sn40l",
    "trainium1",
    "trainium2",
    "inferentia2",
    "wormhole-n150",
    "wormhole-n300",
    "blackhole-p150",
    "ipu-gc200",
    "corsair",
    "gaudi-3",
]

# Seconds to read all that a memory holds, or a model's weights, once: bytes over bandwidth. Each
# was worked out by hand from a published figure, not from the file. Llama-3.1-8B has 8.03e9
# weights: 16.06e9 bytes in bfloat16, 8.03e9 in int8.
BY_HAND = [
    ("a100-80gb", "hbm", 16.06e9, 7.876e-3),  # 16.06 GB / 2.039 TB/s
    ("h100", "hbm", 16.06e9, 4.794e-3),  # 16.06 GB / 3.35 TB/s
    ("h200", "hbm", 16.06e9, 3.346e-3),  # 16.06 GB / 4.8 TB/s
    ("b200", "hbm", 16.06e9, 2.0075e-3),  # 16.06 GB / 8 TB/s
    ("gb200", "l2", 132.12e6, 6.291e-6),  # 126 MiB / 21 TB/s
    ("b300", "hbm", 268e9, 33.5e-3),  # all of 268 GB / 8 TB/s
    ("gb300", "hbm", 278e9, 34.75e-3),  # all of 278 GB / 8 TB/s
    ("rubin", "hbm", 288e9, 13.09e-3),  # all of 288 GB / 22 TB/s
    ("groq-3-lpu", "sram", 500e6, 3.333e-6),  # all of 500 MB / 150 TB/s
    ("groq-lpu-v1", "sram", 230e6, 2.875e-6),  # all of 230 MB / 80 TB/s, which weights cannot use
    ("wse-2", "sram", 40e9, 2e-6),  # all of 40 GB / 20 PB/s
    ("wse-3", "sram", 16.06e9, 0.7648e-6),  # 16.06 GB / 21 PB/s
    ("mi250x", "hbm", 16.06e9, 4.901e-3),  # 16.06 GB / 3.277 TB/s
    ("mi250x-gcd", "hbm", 16.06e9, 9.802e-3),  # 16.06 GB / 1.6384 TB/s
    ("mi300x", "hbm", 16.06e9, 3.030e-3),  # 16.06 GB / 5.3 TB/s
    ("mi325x", "hbm", 16.06e9, 2.677e-3),  # 16.06 GB / 6 TB/s
    ("mi355x", "infinity-cache", 268.4e6, 11.18e-6),  # 256 MiB / 24 TB/s
    ("tpu-v3", "hbm", 16.06e9, 19.47e-3),  # 16.06 GB / 825 GB/s
    ("tpu-v4", "hbm", 12.5e9, 10.16e-3),  # the scaling book: 400 GB over 32 chips, "around 10 ms"
    ("tpu-v5e", "hbm", 8.03e9, 9.793e-3),  # int8: 8.03 GB / 820 GB/s
    ("tpu-v5p", "hbm", 16.06e9, 6.528e-3),  # 16.06 GB / 2.46 TB/s
    ("tpu-v6e", "hbm", 16.06e9, 9.793e-3),  # 16.06 GB / 1.64 TB/s
    ("tpu-v7", "hbm", 16.06e9, 2.170e-3),  # 16.06 GB / 7.4 TB/s
    ("tpu-8i", "hbm", 16.06e9, 1.867e-3),  # 16.06 GB / 8.6 TB/s
    ("jalapeno", "hbm", 16.06e9, 1.043e-3),  # 16.06 GB / 15.4 TB/s
    ("sn40l", "hbm", 16.06e9, 10.04e-3),  # 16.06 GB / 1.6 TB/s
    ("trainium1", "hbm", 16.06e9, 19.59e-3),  # 16.06 GB / 820 GB/s
    ("trainium2", "hbm", 16.06e9, 5.538e-3),  # 16.06 GB / 2.9 TB/s
    ("inferentia2", "hbm", 16.06e9, 18.24e-3),  # 16.06 GB / 880.5 GB/s (820 GiB/s)
    ("wormhole-n150", "gddr6", 8.03e9, 27.88e-3),  # int8: 8.03 GB / 288 GB/s
    ("wormhole-n300", "gddr6", 8.03e9, 13.94e-3),  # int8: 8.03 GB / 576 GB/s
    ("blackhole-p150", "gddr6", 8.03e9, 15.68e-3),  # int8: 8.03 GB / 512 GB/s
    ("ipu-gc200", "sram", 900e6, 18.95e-6),  # all of 900 MB / 47.5 TB/s
    ("corsair", "sram", 2e9, 13.33e-6),  # all of 2 GB / 150 TB/s
    ("gaudi-3", "hbm", 16.06e9, 4.376e-3),  # 16.06 GB / 3.67 TB/s
]


def numbers_of(chip):
    return jax.tree.leaves(chip, is_leaf=lambda node: isinstance(node, Sourced))


def test_every_chip_that_was_asked_for_is_there():
    assert sorted(CHIPS) == sorted(ASKED_FOR)
    assert emu.chips() == [*CHIPS, "host"]


@every
def test_numbers_are_sourced_positive_and_leaves(name):
    numbers = numbers_of(CHIPS[name])
    assert len(numbers) >= 10
    for number in numbers:
        assert isinstance(number, Sourced)
        assert len(number.source) > 10
        assert number.value > 0
        assert math.isfinite(number.value)
        if number.kind == "assumed":
            assert number.low < number.high, number
    leaves = jax.tree.leaves(CHIPS[name])
    assert all(type(leaf) is float for leaf in leaves)
    assert len(leaves) == sum(1 + (n.low is not None) + (n.high is not None) for n in numbers)


@every
def test_memories_are_ordered_and_units_make_sense(name):
    chip = CHIPS[name]
    assert check_chip(chip) is chip
    near = [m for m in chip.memories if m.placement == "on-chip"]
    far = [m for m in chip.memories if m.placement == "off-chip"]
    assert near or name == "jalapeno"  # nothing is known of its on-chip memory
    for close in near:
        for distant in far:
            assert close.bandwidth_bytes_per_s.value > distant.bandwidth_bytes_per_s.value
            assert close.latency_s.value < distant.latency_s.value
            assert close.capacity_bytes.value < distant.capacity_bytes.value


@every
def test_peaks_rise_as_dtypes_narrow(name):
    peaks = {dtype: n.value for dtype, n in CHIPS[name].peak_flops_per_s.items()}
    assert {"float32", "bfloat16"} <= set(peaks)
    assert peaks["float32"] <= peaks["bfloat16"]
    for narrow, wide in (("float8", "bfloat16"), ("float4", "float8"), ("int4", "int8")):
        if narrow in peaks:
            assert peaks[wide] <= peaks[narrow] <= 8 * peaks[wide], (narrow, wide)
    if "float16" in peaks and name != "ipu-gc200":  # which has float16 arithmetic alone
        assert peaks["float16"] == peaks["bfloat16"]


# Headlines that count sparsity, in FLOP/s: none of them may have slipped in.
SPARSE = {
    "a100-80gb": (624e12, {"bfloat16", "float16"}),
    "h100": (3958e12, {"float8", "int8"}),
    "b200": (18e15, {"float4"}),
    "mi300x": (5230e12, {"float8"}),
    "mi355x": (20.1e15, {"float4"}),
    "trainium2": (2563e12, {"float8"}),
    "wse-3": (125e15, {"bfloat16", "float16"}),
    "wse-2": (62.5e15, {"bfloat16", "float16"}),
}


@pytest.mark.parametrize("name", SPARSE)
def test_no_peak_counts_sparsity(name):
    headline, dtypes = SPARSE[name]
    for dtype in dtypes:
        assert CHIPS[name].peak_flops_per_s[dtype].value <= 0.51 * headline


@every
def test_a_chip_has_power_and_a_way_to_other_chips(name):
    chip = CHIPS[name]
    assert chip.power_w is not None
    between = [link for link in chip.links if link.scope == "chips"]
    assert between
    for link in between:
        fastest = chip.memories[0].bandwidth_bytes_per_s.value
        assert link.bandwidth_bytes_per_s.value < fastest
        times = [n.value for _, n in sorted(link.small_allreduce_s.items())]
        assert times == sorted(times)
        assert all(link.latency_s.value < seconds for seconds in times)


@pytest.mark.parametrize(("name", "memory", "held", "seconds"), BY_HAND)
def test_one_figure_by_hand(name, memory, held, seconds):
    bandwidth = CHIPS[name].memory(memory).bandwidth_bytes_per_s.value
    assert held / bandwidth == pytest.approx(seconds, rel=1e-3)


def test_a_figure_by_hand_is_there_for_every_chip():
    assert sorted(row[0] for row in BY_HAND) == sorted(CHIPS)


def test_what_the_question_turns_on():
    # Two layers of Llama-3.1-70B in fp8 (2 x 856e6 bytes) over 8 LPUs: 214e6 bytes on each.
    assert emu.chip("groq-lpu-v1").memory("sram").capacity_bytes.value > 214e6
    # They enter at 64 streams x 320 bytes x 0.9 GHz = 18.432e12, in 11.6 us and not in 2.7.
    entry = emu.chip("groq-lpu-v1").weight_entry_bytes_per_s
    assert 214e6 / entry.value == pytest.approx(11.61e-6, rel=1e-3)
    # The A100's floor for Llama-3.1-8B in bfloat16: 15.0e9 bytes read per token in 7.36 ms.
    hbm = emu.chip("a100").memory("hbm")
    assert 15.0e9 / hbm.bandwidth_bytes_per_s.value == pytest.approx(7.36e-3, rel=1e-3)
    # A GCD is half of its package.
    whole, half = emu.chip("mi250x"), emu.chip("mi250x-gcd")
    for of, part in zip(whole.memories, half.memories, strict=True):
        assert part.bandwidth_bytes_per_s.value * 2 == of.bandwidth_bytes_per_s.value
        assert part.capacity_bytes.value * 2 == of.capacity_bytes.value
    # Half of an n300 is within what is said of an n150.
    n300, n150 = emu.chip("wormhole-n300"), emu.chip("wormhole-n150")
    for field in ("capacity_bytes", "bandwidth_bytes_per_s"):
        whole_card = getattr(n300.memory("gddr6"), field).value
        assert getattr(n150.memory("gddr6"), field).value * 2 == whole_card
    assert n150.memory("sram").capacity_bytes.low * 2 == n300.memory("sram").capacity_bytes.value
    assert n150.peak("float8").low * 2 <= n300.peak("float8").value


def test_a_name_is_found_by_alias_and_an_unknown_one_is_told_the_nearest():
    assert emu.chip("h100-sxm") is emu.chip("h100") is emu.chip("H100")
    assert emu.chip("Ironwood").name == "tpu-v7"
    assert emu.chip("TPU_v5e").name == "tpu-v5e"
    with pytest.raises(EmuError, match=r"no chip 'h10'; the nearest is 'h100' \(emu\.chips\(\)"):
        emu.chip("h10")
    with pytest.raises(EmuError, match="the nearest is 'groq-lpu-v1'"):
        emu.chip("groq-lpu-1")
    with pytest.raises(EmuError, match="the nearest is 'host'"):
        emu.chip("hots")
    with pytest.raises(EmuError, match=r"'chips/mine' is no chip's name.*must end in \.toml"):
        emu.chip("chips/mine")


def test_host_is_this_machine(monkeypatch):
    here = emu.chip("h100")  # stands for what would be measured
    monkeypatch.setattr("emu.chip_names.host", lambda: here)
    assert emu.chip("host") is here


def test_a_peak_is_the_dtypes_own_or_the_next_wider_ones():
    h100 = emu.chip("h100")
    assert h100.peak("float8_e4m3fn").value == 1979e12
    assert h100.peak("float4_e2m1fn").value == 1979e12  # no float4: multiplied as float8
    assert h100.peak("int4") is h100.peak("int8")
    assert emu.chip("tpu-v4").peak("float8_e5m2") is emu.chip("tpu-v4").peak("bfloat16")
    with pytest.raises(EmuError, match="no peak FLOP/s for complex64: it has float32, bfloat16"):
        h100.peak("complex64")
    assert all(set(wider) <= set(WIDER) for wider in WIDER.values())


@pytest.mark.newest
def test_a_chip_is_a_pytree_that_gradients_and_vmap_go_through():
    chip = emu.chip("groq-lpu-v1")
    assert jax.tree.unflatten(jax.tree.structure(chip), jax.tree.leaves(chip)) == chip
    assert hash(jax.tree.structure(chip)) == hash(jax.tree.structure(emu.chip("groq-lpu-v1")))

    def seconds(chip):
        return 18.432e6 / chip.weight_entry_bytes_per_s.value + 2 * chip.links[0].latency_s.value

    gradient = jax.grad(seconds)(chip)
    assert float(gradient.links[0].latency_s.value) == 2
    entry = float(gradient.weight_entry_bytes_per_s.value)
    assert entry == pytest.approx(-18.432e6 / 18.432e12**2, rel=1e-5)
    several = jax.tree.map(lambda x: jnp.asarray([x, 2 * x]), chip)
    # 1 us to enter and two hops of 0.3 us; then twice the rate, and hops twice as long.
    assert jax.vmap(seconds)(several).tolist() == pytest.approx([1.6e-6, 1.7e-6], rel=1e-5)


def test_the_page_of_chips_is_up_to_date():
    committed = (DOCS / "chips.md").read_text(encoding="utf-8")
    assert committed == page(catalogue()), "run `make chips-table` and commit docs/chips.md"
    assert all(f"### {name}\n" in committed for name in CHIPS)


def test_numbers_are_printed_with_si_prefixes():
    assert scaled(3.35e12, "B/s") == "3.35 TB/s"
    assert scaled(52428800, "B") == "52.43 MB"
    assert scaled(300e-9, "s") == "300 ns"
    assert scaled(1e-3, "s") == "1 ms"
    assert scaled(2.7e-10, "s") == "2.7e-10 s"
    assert scaled(15625, "$") == "$15,625"
    assert scaled(0.84, "") == "0.84"
