"""The mesh of cores, on a chip of 10 x 10 of them whose times can be told by hand."""

import dataclasses

import jax
import pytest
from toy_chip import chip, sourced, stack, work

import emu
from emu.chips import Link
from emu.placement import place
from emu.system import System
from emu.work import Access, Dot, Leaf, Op, Work


def wafer(hop=0.0, port=1e12, **more):
    """100 cores in a square, each with four ports."""
    mesh = Link(
        name="fabric",
        scope="on-chip",
        topology="mesh-2d",
        ports=4,
        nodes=100,
        bandwidth_bytes_per_s=sourced(4.0 * port),
        latency_s=sourced(hop),
    )
    one = chip(**{"peak": 1e12, "sram": 1e4, **more})
    return dataclasses.replace(one, links=(mesh, *one.links))


def product(leaf="w", k=100, n=100, count=1, rows=None, kernel=0, vectors=1):
    read = Access(tensor=leaf, kind="weights", bytes=4 * k * n, rows=rows)
    return Op(
        name="dot_general",
        kind="dot",
        count=count,
        flops={"float32": 2 * k * n * vectors},
        reads=(read,),
        kernel=kernel,
        dot=Dot(batch=1, m=vectors, n=n, k=k),
    )


def matrices(*sizes):
    leaves = [Leaf(path=f"w{i}", shape=(n, k), dtype="float32") for i, (k, n) in enumerate(sizes)]
    ops = [product(f"w{i}", k, n, kernel=i) for i, (k, n) in enumerate(sizes)]
    return Work(leaves=tuple(leaves), ops=tuple(ops))


def seconds(of, on, **numbers):
    system = System(on, stack=stack(prefetch_kernels=None, **numbers))
    return emu.predict(of, system, place(of, system, "on-chip", activations="sram")).seconds


def test_a_lone_matrix_streams_from_the_whole_wafer():
    assert seconds(matrices((100, 100)), wafer()) == pytest.approx(4.0)


def test_each_of_two_matrices_has_its_share_of_the_wafer():
    # They are not alike, so that each has a region of its own: both have three quarters and one
    # quarter of the bandwidth, and each takes as long as all bytes over all of it.
    together = Work(
        leaves=matrices((100, 100), (300, 100)).leaves, ops=matrices((100, 100), (300, 100)).ops
    )
    assert seconds(together, wafer()) == pytest.approx(16.0)


def test_equal_layers_follow_each_other_over_regions():
    leaf = Leaf(path="w", shape=(4, 50, 100), dtype="float32")
    of = Work(leaves=(leaf,), ops=(product(n=50, count=4, rows=(0, 4)),))
    # 20 kB a layer from a quarter of the cores each: as long as all 80 kB from that quarter.
    assert seconds(of, wafer()) == pytest.approx(4 * 20e3 / 2.5e3)
    # 4 x (there and back over 5 x 5 cores), 8 bytes a number would be wrong: float32 has 4.
    hops = seconds(of, wafer(hop=1.0)) - seconds(of, wafer())
    assert hops == pytest.approx(4 * 2 * 5)
    vectors = seconds(of, wafer(port=100.0), mesh_lanes=1.0) - seconds(of, wafer())
    assert vectors == pytest.approx(4 * 4 * (100 + 50) / 100.0, rel=1e-6)


def layers(vectors, count=4):
    leaf = Leaf(path="w", shape=(count, 50, 100), dtype="float32")
    op = product(n=50, count=count, rows=(0, count), vectors=vectors)
    return Work(leaves=(leaf,), ops=(op,))


@pytest.mark.parametrize("vectors", [1, 2, 7])
def test_vectors_follow_each_other_from_region_to_region(vectors):
    on = {"port": 100.0}, {"mesh_lanes": 1.0}
    streams = seconds(layers(vectors), wafer(**on[0]), **on[1]) - seconds(layers(vectors), wafer())
    # The last one leaves when it has waited for those before it in one of the four.
    assert streams == pytest.approx((4 + vectors - 1) * 4 * (100 + 50) / 100.0)
    # 10,000 FLOPs of one vector in a layer, at a quarter of the peak; the 20 kB take 8 s.
    computes = seconds(layers(vectors), wafer(peak=1e3))
    assert computes == pytest.approx((4 + vectors - 1) * 1e4 / 250)


def test_of_many_vectors_a_wafer_reaches_its_peak_and_no_more():
    floor = 50 * 4 * 1e4 / 1e3
    assert floor < seconds(layers(50), wafer(peak=1e3)) < 1.08 * floor


def test_they_wait_where_the_longest_is():
    sizes = ((100, 20), (100, 60), (100, 20))
    leaves = tuple(
        Leaf(path=f"w{i}", shape=(1, n, k), dtype="float32") for i, (k, n) in enumerate(sizes)
    )

    def of(vectors):
        ops = [
            product(f"w{i}", k, n, kernel=i, count=i + 1, vectors=vectors)
            for i, (k, n) in enumerate(sizes)
        ]
        return Work(leaves=leaves, ops=tuple(ops))

    def streams(vectors):
        on = wafer(port=100.0)
        return seconds(of(vectors), on, mesh_lanes=1.0) - seconds(of(vectors), wafer())

    assert streams(4) - streams(1) == pytest.approx(3 * 4 * (100 + 60) / 100.0)


def test_no_more_lanes_than_the_region_has_links():
    of = matrices((100, 100))
    at_most = seconds(of, wafer(port=1.0), mesh_lanes=1e9)
    assert at_most == pytest.approx(4.0 + 800 / 10)
    assert seconds(of, wafer(port=1.0), mesh_lanes=10.0) == pytest.approx(at_most)
    assert seconds(of, wafer(port=1.0), mesh_lanes=5.0) == pytest.approx(4.0 + 800 / 5)


def test_what_crosses_counts_as_collectives_and_has_a_gradient():
    of = matrices((100, 100))
    system = System(wafer(hop=1.0))
    placed = place(of, system, "on-chip", activations="sram")
    at = emu.predict(of, system, placed)
    assert at.breakdown["collectives"] == pytest.approx(20.0)
    assert {span.resource for span in at.spans} >= {"mesh", "sram"}
    slope = jax.grad(lambda s: emu.predict(of, s, placed).seconds)(system)
    assert slope.chip.links[0].latency_s.value == pytest.approx(20.0)


def test_without_work_for_the_mesh_nothing_crosses():
    of = work((1000, 0))
    system = System(wafer(hop=1.0))
    of = Work(
        leaves=of.leaves, ops=tuple(dataclasses.replace(o, kind="elementwise") for o in of.ops)
    )
    assert emu.predict(of, system, place(of, system, "on-chip")).seconds == pytest.approx(0.1)
