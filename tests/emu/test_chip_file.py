"""A chip from a user's file: what is read, and what is refused in one clear line."""

import dataclasses
from pathlib import Path

import jax
import pytest

import emu
from emu.chip_file import load_chips, parse_chips
from emu.chips import Chip, Link, Memory, Sourced
from emu.errors import EmuError

README = Path(emu.__file__).parent / "catalogue" / "README.md"
EXAMPLE = README.read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]


def refused(old: str, new: str) -> str:
    """What is said of the example with one line changed."""
    assert EXAMPLE.count(old) >= 1, old
    with pytest.raises(EmuError) as caught:
        parse_chips(EXAMPLE.replace(old, new, 1), "mine.toml")
    message = str(caught.value)
    assert message.startswith("mine.toml")
    assert "\n" not in message
    return message


@pytest.mark.newest
def test_the_example_of_the_readme_is_read(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(EXAMPLE, encoding="utf-8")
    chip = emu.load_chip(path)
    assert chip == emu.chip(str(path))  # a path serves wherever a name does
    assert (chip.name, chip.vendor, chip.year) == ("example-one", "Example", 2025)
    hbm = chip.memory("hbm")
    assert hbm.bandwidth_bytes_per_s == Sourced(
        value=4e12, source="Example One datasheet, 2025, p. 2", kind="vendor"
    )
    assert hbm.achieved_share.source == "measured by us, 2025-06-01 (a copy of 8 GB)"
    assert (chip.price_usd.low, chip.price_usd.high) == (15e3, 30e3)
    assert chip.links[0].nodes == 8
    assert chip.links[0].small_allreduce_s[8].value == 5e-6
    assert all(isinstance(leaf, float) for leaf in jax.tree.leaves(chip))


def test_a_file_of_several_chips_needs_a_name(tmp_path):
    path = tmp_path / "two.toml"
    second = EXAMPLE[EXAMPLE.index("[[chip]]") :].replace("example-one", "example-two")
    path.write_text(EXAMPLE + second.replace('aliases = ["example"]', ""), encoding="utf-8")
    assert [chip.name for chip in load_chips(path)] == ["example-one", "example-two"]
    assert emu.load_chip(path, "example-two").name == "example-two"
    with pytest.raises(EmuError, match="has 2 chips: give the name of one, example-one"):
        emu.load_chip(path)
    with pytest.raises(EmuError, match="no chip 'example-tow'; the nearest is 'example-two'"):
        emu.load_chip(path, "example-tow")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("bandwidth_bytes_per_s", "bandwith_bytes_per_s", "the nearest is 'bandwidth_bytes_per_s'"),
        ("power_w", "power", "chip 'example-one': unknown key 'power'; the nearest is 'power_w'"),
        ("[[chip.memory]]", "[[chip.memroy]]", "unknown key 'memroy'; the nearest is 'memory'"),
        ("topology", "topologie", "link 'fabric': unknown key 'topologie'"),
        ("vendor = ", "vender = ", "unknown key 'vender'; the nearest is 'vendor'"),
        ('note = "One die."', "nodes = 8", "unknown key 'nodes'"),
        ("low = 15e3", "least = 15e3", "price_usd: unknown key 'least'"),
        ("bfloat16 =", "bf16 =", "unknown dtype 'bf16'; the nearest is 'bfloat16'"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_right_one(old, new, said):
    assert said in refused(old, new)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("value = 96e9", "value = 80", "is 80 bytes, which cannot be; did you mean 80e9 (80 GB)?"),
        ("value = 4e12", "value = 3350", "did you mean 3350e9 (3350 GB/s)?"),
        ("value = 4e12", "value = 3.35e20", "it must be from 1e+08 to 1e+18"),
        ("value = 400e-9", "value = 400", "latency_s value is 400 seconds"),
        ("value = 400e-9", "value = 400", "did you mean 400e-9 (400 ns)?"),
        ("value = 1e-6, low = 0.5e-6, high = 3e-6", "value = 1, low = 1, high = 1", "1e-6 (1 us)?"),
        ("value = 1e-6, low = 0.5e-6, high = 3e-6", "value = 300", "300e-9 (300 ns)?"),
        ("value = 5e-6", "value = 5", "did you mean 5e-6 (5 us)?"),
        ("value = 400e-9", "value = 0", "is 0 seconds, which cannot be: it must be from 1e-10"),
        ("value = 800e12", "value = 800", "did you mean 800e12 (800 TFLOP/s)?"),
        ("value = 500,", "value = 1.2,", "did you mean 1.2e3 (1.2 kW)?"),
        ("value = 0.85", "value = 85", "did you mean 85e-2 (85 %)?"),
        ("high = 30e3", "high = 30e9", "price_usd high is 3e+10 dollars"),
        ("value = 256e6", "value = inf", "capacity_bytes is inf; a number nobody knows is"),
        ("value = 256e6", "value = nan", "must not be negative or NaN"),
        ("value = 256e6", "value = -1", "must not be negative"),
        ("value = 256e6", 'value = "256 MB"', "must be a number in SI units, not '256 MB'"),
        ("value = 256e6", "value = true", "must be a number in SI units, not True"),
    ],
)
def test_a_unit_mistake_is_caught_with_what_was_meant(old, new, said):
    assert said in refused(old, new)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("schema = 1", "schema = 2", "schema 2 is not known"),
        ("schema = 1", "", "schema is missing: begin the file with `schema = 1`"),
        ("schema = 1", "schema = ", "is not TOML"),
        ('vendor = "Example"', "vendor = 7", "vendor must be str, not 7"),
        ('name = "example-one"', "", "a [[chip]]: name is missing"),
        ('placement = "on-chip"', "", "memory 'sram': placement is missing"),
        ('placement = "on-chip"', 'placement = "near"', "neither 'on-chip' nor 'off-chip'"),
        ('name = "hbm"', 'name = "sram"', "two memories of one name"),
        ('{ value = 800e12, source = "datasheet", kind = "vendor" }', "800e12", "must say where"),
        ("value = 800e12, ", "", "peak_flops_per_s.bfloat16: value is missing"),
        ('source = "ours"', 'source = "our"', "not in [sources]; the nearest is 'ours'"),
        ('source = "ours"', 'source = ""', "is not in [sources]"),
        ('kind = "measured"', 'kind = "guessed"', "kind 'guessed'"),
        (", high = 200e-9", "", "latency_s is assumed, so it needs a range"),
        ("low = 15e3", "low = 25e3", "does not hold 20000"),
        ("value = 4e12", "value = 41e12", "memories are listed fastest first"),
        ('placement = "on-chip"', 'placement = "off-chip"\n#', None),
        ("value = 20e12", "value = 50e12", "weight_entry_bytes_per_s is 5e+13, above the 4e+13"),
        ('topology = "switch"', 'topology = "star"', "topology 'star' is none of switch"),
        ("ports = 1 ", "ports = 0 ", "whole numbers of at least 1"),
        ("8 = {", "eight = {", "a table by the number of chips"),
        ('aliases = ["example"]', 'aliases = ["example-one"]', "two chips have the name"),
        ('aliases = ["example"]', "aliases = 3", "aliases must be a list of names"),
        ("[sources]", "[[sources]]", "[sources] must be a table"),
    ],
)
def test_what_is_missing_or_cannot_be_is_told(old, new, said):
    if said is None:  # a chip may have off-chip memories alone
        chips = parse_chips(EXAMPLE.replace(old, new, 1), "mine.toml")
        with pytest.raises(EmuError, match="has no memory 'on-chip': it has sram"):
            chips[0].memory("on-chip")
    else:
        assert said in refused(old, new)


def test_an_off_chip_memory_is_not_faster_than_an_on_chip_one():
    swapped = (
        EXAMPLE.replace('"on-chip"', '"x"')
        .replace('"off-chip"', '"on-chip"')
        .replace('"x"', '"off-chip"')
    )
    with pytest.raises(EmuError, match="an off-chip memory is faster than an on-chip one"):
        parse_chips(swapped, "mine.toml")


def test_a_file_that_cannot_be_read_or_holds_no_chip_is_told(tmp_path):
    with pytest.raises(EmuError, match=r"none\.toml cannot be read"):
        emu.chip(str(tmp_path / "none.toml"))
    path = tmp_path / "empty.toml"
    path.write_text('schema = 1\nvendor = "Example"\n')
    with pytest.raises(EmuError, match="the file describes no chip"):
        emu.load_chip(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(EmuError, match="cannot be read"):
        emu.load_chip(path)


def test_a_chip_written_in_python_has_the_same_checks():
    def number(value, kind="vendor", **more):
        return Sourced(value=value, source="a datasheet", kind=kind, **more)

    memory = Memory(
        name="hbm",
        placement="off-chip",
        capacity_bytes=number(80e9),
        bandwidth_bytes_per_s=number(3e12),
        latency_s=number(4e-7),
    )
    link = Link(name="l", bandwidth_bytes_per_s=number(1e11), latency_s=number(1e-6))
    chip = Chip(name="mine", vendor="me", memories=(memory,), links=(link,))
    assert emu.check_chip(chip) is chip
    small = dataclasses.replace(memory, capacity_bytes=number(80))
    with pytest.raises(EmuError, match=r"'hbm': capacity_bytes value is 80 .* 80e9 \(80 GB\)"):
        emu.check_chip(dataclasses.replace(chip, memories=(small,)))
    slow = dataclasses.replace(link, latency_s=number(2.0))
    with pytest.raises(EmuError, match=r"link 'l': latency_s .* did you mean 2e-6 \(2 us\)"):
        emu.check_chip(dataclasses.replace(chip, links=(slow,)))
    within = dataclasses.replace(slow, scope="on-chip")
    with pytest.raises(EmuError, match=r"link 'l': latency_s .* did you mean 2e-9 \(2 ns\)"):
        emu.check_chip(dataclasses.replace(chip, links=(within,)))
    loose = dataclasses.replace(chip, power_w=number(500, kind="assumed"))
    with pytest.raises(EmuError, match="power_w is assumed, so it needs a range"):
        emu.check_chip(loose)
    bare = dataclasses.replace(chip, power_w=500)
    with pytest.raises(EmuError, match="power_w must be Sourced"):
        emu.check_chip(bare)
    with pytest.raises(EmuError, match="scope 'rack' is none of on-chip, chips"):
        dataclasses.replace(link, scope="rack")
    with pytest.raises(EmuError, match="a link needs a name"):
        dataclasses.replace(link, name="")
