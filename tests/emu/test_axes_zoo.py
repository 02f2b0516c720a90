"""The logical axes of the zoo's decoders: which dimensions of weights and caches are the same.

About 30 seconds.
"""

import dataclasses
import functools
import math
import time

import jax
import pytest

import emu
from models import zoo
from models.cache import new_cache
from models.shapes import shapes
from models.steps import decode_step


@functools.cache
def traced(name, dtype="bfloat16", *, scanned=True, batch=2, tokens=1, layers=None, kv="bfloat16"):
    """A step of a decoder of the zoo; `layers`: with only so many of them."""
    config = zoo.architecture(name).config
    if layers is not None:
        config = dataclasses.replace(config, layers=layers)
    cache = jax.eval_shape(
        functools.partial(
            new_cache, config, batch=batch, length=300, dtype=kv, at_once=tokens, scanned=scanned
        )
    )
    return emu.trace(
        functools.partial(decode_step, config),
        shapes(config, dtype, scanned=scanned),
        cache,
        jax.ShapeDtypeStruct((batch, tokens), "int32"),
        cache=1,
        hints={"context": 200},
    )


class Named:
    """A work's leaves by the end of their path, and sizes of axes."""

    def __init__(self, work, layer="layers/"):
        self.work, self.layer = work, layer

    def axes(self, path):
        """The axes of each dimension, without that of the layers."""
        (leaf,) = [leaf for leaf in self.work.leaves if leaf.path in (path, f"{self.layer}{path}")]
        assert len(leaf.axes) == len(leaf.shape)
        for n, axes in zip(leaf.shape, leaf.axes, strict=True):
            assert math.prod(self.sizes(axes)) == n, path
        stacked = leaf.path.startswith("layers/") and not leaf.path.split("/")[1].isdigit()
        return leaf.axes[1:] if stacked else leaf.axes

    def sizes(self, axes):
        return tuple(self.work.axes[i].size for i in axes)


CASES = {
    "scanned": {},
    "scanned, one sequence": {"batch": 1},
    "listed": {"scanned": False, "layers": 2},
    "listed, one sequence": {"scanned": False, "layers": 2, "batch": 1},
    "prompt": {"tokens": 5},
}


@pytest.mark.parametrize("case", CASES)
def test_llama(case):
    listed = "listed" in case
    work = traced("llama-3.1-8b", **CASES[case])
    of = Named(work, "layers/0/" if listed else "layers/")
    (width,) = of.axes("embedding/weight")[1]
    for path in ("q", "k", "v"):
        assert of.axes(f"attention/{path}/kernel")[1] == (width,)
    for path in ("attention/o/kernel", "mlp/down/kernel"):
        assert of.axes(path)[0] == (width,)
    for path in ("attention_norm/scale", "mlp_norm/scale"):
        assert of.axes(path) == ((width,),)
    assert of.axes("norm/scale") == ((width,),)
    # Heads: 8 of keys and values, 4 of queries to each, 128 wide.
    q, k, v = (of.axes(f"attention/{path}/kernel")[0] for path in "qkv")
    o = of.axes("attention/o/kernel")[1]
    kv, group = q[:2]
    assert of.sizes((kv, group)) == (8, 4)
    assert k[0] == v[0] == o[0] == kv
    assert o[1] == group
    assert o[2:] == v[1:]
    assert q[-1] == k[-1]
    keys, values = (
        next(leaf for leaf in work.leaves if leaf.path == f"cache/{name}/0")
        for name in ("keys", "values")
    )
    assert keys.axes[-3] == values.axes[-3] == (kv,)
    assert values.axes[-1] == v[1:]
    assert keys.axes[-2] == values.axes[-2]
    # The inner width of the MLP.
    (inner,) = of.axes("mlp/down/kernel")[1]
    assert of.axes("mlp/gate/kernel")[0] == of.axes("mlp/up/kernel")[0] == (inner,)
    assert work.axes[inner].size == 14336
    # The head's vocabulary is not the table's: they are two tensors.
    assert of.axes("head/kernel")[1] == (width,)
    assert of.axes("head/kernel")[0] != of.axes("embedding/weight")[0]
    if listed:  # a layer's own axes are not the next one's
        other = Named(work, "layers/1/")
        assert other.axes("mlp/down/kernel")[0] == (width,)
        assert other.axes("mlp/down/kernel")[1] != (inner,)
        assert other.axes("attention/q/kernel")[0][0] != kv


@pytest.mark.parametrize("case", CASES)
def test_llamas_ops(case):
    work = traced("llama-3.1-8b", **CASES[case])
    of = Named(work, "layers/0/" if "listed" in case else "layers/")
    kv, group = of.axes("attention/q/kernel")[0][:2]
    (inner,) = of.axes("mlp/down/kernel")[1]
    (vocab,), (width,) = of.axes("embedding/weight")
    held = {leaf.path: {i for axes in leaf.axes for i in axes} for leaf in work.leaves}
    reading = {}
    for op in work.ops:
        assert set(op.summed) <= set(op.axes), op
        for access in op.reads:
            if access.kind == "weights":
                assert set(access.axes) <= held[access.tensor] | set(op.axes), op
                reading[access.tensor] = (op, access)
    of_layer = of.layer
    op, access = reading[f"{of_layer}attention/o/kernel"]
    assert {kv, group} <= set(op.summed)
    assert {kv, group, width} <= set(access.axes)
    op, _ = reading[f"{of_layer}mlp/down/kernel"]
    assert op.summed == (inner,)
    op, access = reading["embedding/weight"]
    assert op.indexed == (vocab,)
    assert vocab not in access.axes
    op, _ = reading["head/kernel"]
    assert op.summed == (width,)
    if of_layer == "layers/":
        stacked = [leaf for leaf in work.leaves if leaf.path.startswith("layers/")]
        layers = {i for leaf in stacked for i in leaf.axes[0]}
        assert len(layers) == 1
        for op in work.ops:
            assert not layers & {*op.axes, *op.summed, *op.indexed, *op.whole}


def test_a_tied_head_reads_the_table():
    work = traced("smollm2-135m")
    of = Named(work)
    (vocab,), (width,) = of.axes("embedding/weight")
    head = next(op for op in reversed(work.ops) if op.kind == "dot")
    assert head.summed == (width,)
    assert vocab in head.axes
    assert of.axes("attention/q/kernel")[1] == (width,)


GROUPED = ["mixtral-8x7b", "gpt-oss-20b", "qwen3-30b-a3b"]


@pytest.mark.parametrize("tokens", [1, 200])  # gathered, and sorted by expert
@pytest.mark.parametrize("name", GROUPED)
def test_experts(name, tokens):
    work = traced(name, tokens=tokens)
    count = zoo.architecture(name).config.experts.count
    (width,) = Named(work).axes("embedding/weight")[1]
    prefixes = {leaf.path.split("/mlp/")[0] for leaf in work.leaves if "/mlp/experts/" in leaf.path}
    assert prefixes
    for prefix in prefixes:
        of = Named(work, prefix + "/")
        down = of.axes("mlp/experts/down/kernel")
        experts, out, inner = down
        assert of.sizes(experts) == (count,)
        assert out == (width,)
        assert of.axes("mlp/experts/gate/kernel") == (experts, inner, out)
        assert of.axes("mlp/experts/up/kernel") == (experts, inner, out)
        assert of.axes("mlp/router/kernel") == (experts, out)
        if name == "gpt-oss-20b":
            assert of.axes("mlp/experts/gate/bias") == (experts, inner)
            assert of.axes("mlp/router/bias") == (experts,)
        choice = [op for op in work.ops if op.name == "top_k" and set(experts) & set(op.whole)]
        assert choice
        found = 0
        for op in work.ops:
            for access in op.reads:
                if access.tensor.startswith(f"{prefix}/mlp/experts/") and "kernel" in access.tensor:
                    found += 1
                    chosen = zoo.architecture(name).config.experts.chosen
                    assert access.routed == emu.work.Routed(
                        experts=count, chosen=chosen, tokens=2 * tokens
                    )
                    assert set(access.axes) == {*experts, *inner, *out}
                    assert experts[0] in op.indexed
                    assert not set(experts) & set(op.axes)
        assert found == 3


def test_deepseeks_latents_and_heads():
    work = traced("deepseek-r1")
    (width,) = Named(work).axes("embedding/weight")[1]
    for prefix in ("layers/0:3/", "layers/3:61/"):
        of = Named(work, prefix)
        heads, *_, value = of.axes("attention/kv/kernel")[0]
        rank = of.axes("attention/kv/kernel")[1]
        queries = of.axes("attention/q_down/kernel")[0]
        assert of.sizes((heads,)) == (128,)
        assert of.sizes(rank) == (512,)
        assert of.axes("attention/o/kernel") == ((width,), (heads, value))
        assert of.axes("attention/q/kernel")[0][0] == heads
        assert of.axes("attention/q/kernel")[1] == queries
        assert of.axes("attention/q_down_norm/scale") == (queries,)
        assert of.axes("attention/kv_down_norm/scale") == (rank,)
        # 512 of the latent beside 64 of the key: a part of it is not a factor of it.
        assert of.sizes(of.axes("attention/kv_down/kernel")[0]) == (576,)
        cached = work.leaves
        latents = [leaf for leaf in cached if leaf.path.startswith("cache/values")]
        assert any(leaf.axes[-1] == rank for leaf in latents)
        assert all(heads not in axes for leaf in latents for axes in leaf.axes)
    of = Named(work, "layers/3:61/")
    experts, out, inner = of.axes("mlp/experts/down/kernel")
    assert of.sizes(experts) == (8, 32)  # groups of experts, of which the router takes four
    assert of.axes("mlp/router/kernel") == (experts, out)
    assert of.axes("mlp/router/correction") == (experts,)
    assert of.axes("mlp/shared/down/kernel")[1] != inner


@pytest.mark.parametrize("dtype", ["fp8", "int8"])
def test_scales_of_rows(dtype):
    of = Named(traced("llama-3.1-8b", dtype))
    for path in ("attention/q", "attention/o", "mlp/gate", "mlp/down"):
        assert of.axes(f"{path}/kernel_scale") == of.axes(f"{path}/kernel")[:1]
    assert of.axes("embedding/weight_scale") == of.axes("embedding/weight")[:1]


@pytest.mark.parametrize(("dtype", "block"), [("int4", 128), ("mxfp4", 32), ("nvfp4", 16)])
@pytest.mark.parametrize("name", ["llama-3.1-8b", "mixtral-8x7b"])
def test_scales_of_blocks(name, dtype, block):
    work = traced(name, dtype)
    of = Named(work)
    mlp = ["mlp/gate", "mlp/up", "mlp/down"]
    if name == "mixtral-8x7b":
        mlp = [path.replace("mlp", "mlp/experts") for path in mlp]
    for path in ("attention/q", "attention/k", "attention/o", *mlp):
        *rows, columns = of.axes(f"{path}/kernel")
        *same, blocks = of.axes(f"{path}/kernel_scale")
        assert rows == same
        assert blocks == columns[: len(blocks)]
        # Two codes in a byte.
        assert math.prod(of.sizes(columns[len(blocks) :])) == block // 2
    assert of.axes("embedding/weight_scale")[0] == of.axes("embedding/weight")[0]
    gate, up, down = (of.axes(f"{path}/kernel") for path in mlp)
    inner = gate[-2]
    assert up[-2] == inner
    assert down[-1] == inner[: len(down[-1])]
    read = {a.tensor: a for op in work.ops for a in op.reads}
    for path in ("attention/q", *mlp):
        for suffix in ("kernel", "kernel_scale"):
            leaf = f"layers/{path}/{suffix}"
            every = {i for axes in of.axes(f"{path}/{suffix}") for i in axes}
            assert set(read[leaf].axes) == every, leaf


@pytest.mark.parametrize("kv", ["int8", "float8_e4m3fn"])
def test_a_narrow_cache(kv):
    work = traced("llama-3.1-8b", kv=kv)
    of = Named(work)
    heads = of.axes("attention/k/kernel")[0][0]
    for leaf in work.leaves:
        if leaf.path.startswith(("cache/keys", "cache/values")):
            assert leaf.axes[2] == (heads,), leaf.path


@pytest.mark.parametrize("name", zoo.names())
def test_a_decoder_has_one_residual_axis(name):
    work = traced(name)
    (width,) = Named(work).axes("embedding/weight")[1]
    matrices = [
        leaf
        for leaf in work.leaves
        if leaf.path.endswith("kernel") and zoo.architecture(name).config.width in leaf.shape
    ]
    assert matrices
    for leaf in matrices:
        assert any(axes == (width,) for axes in leaf.axes), leaf.path
    for leaf in work.leaves:
        for n, axes in zip(leaf.shape, leaf.axes, strict=True):
            assert math.prod(work.axes[i].size for i in axes) == n, leaf.path


def test_a_prompt_and_a_step_add_under_common_axes():
    both = traced("llama-3.1-8b", tokens=5) + traced("llama-3.1-8b")
    of = Named(both)
    (inner,) = of.axes("mlp/down/kernel")[1]
    downs = [op for op in both.ops if any(a.tensor == "layers/mlp/down/kernel" for a in op.reads)]
    assert [op.summed for op in downs] == [(inner,), (inner,)]
    assert emu.Work.from_json(both.to_json()) == both


def test_axes_hardly_take_time():
    # 405 billion parameters, scanned; one of 671 billion with experts. On any machine that is used.
    for name in ("llama-3.1-405b", "deepseek-r1"):
        traced.cache_clear()
        start = time.process_time()
        traced(name)
        assert time.process_time() - start < 2
