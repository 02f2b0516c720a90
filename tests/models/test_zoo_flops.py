"""The zoo's FLOPs by `emu.trace`, against counts that share nothing with it. About 30 seconds.

Full widths and few layers: at least two of each kind, so that a scan has something to repeat.
"""

import dataclasses
import functools
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from stablehlo_flops import dot_flops

import emu
import kernels.products
from models import zoo
from models.cache import new_cache
from models.families import FAMILIES
from models.shapes import shapes
from models.steps import decode_step

# One of each `model_type`, and how many layers have two of each kind; PaLM has no `model_type`.
OF_EACH = {
    "llama": ("llama-3.1-405b", 2),
    "qwen2": ("qwen2.5-coder-7b", 2),
    "qwen3": ("qwen3-32b", 2),
    "mistral": ("mistral-7b", 2),
    "starcoder2": ("starcoder2-15b", 2),
    "gemma3_text": ("gemma-3-27b", 12),  # each sixth attends to all
    "mixtral": ("mixtral-8x7b", 2),
    "qwen3_moe": ("qwen3-coder-480b-a35b", 2),
    "qwen3_5_moe_text": ("qwen3.5-397b-a17b", 8),  # each fourth attends
    "gpt_oss": ("gpt-oss-120b", 4),  # each second attends to all
    "llama4_text": ("llama-4-maverick", 8),  # each second is routed, each fourth attends to all
    "glm4_moe": ("glm-4.7", 5),  # three dense ones first
    "minimax_m2": ("minimax-m2.5", 2),
    "falcon": ("falcon-40b", 2),
    "deepseek_v2": ("deepseek-coder-v2", 3),  # one dense one first
    "deepseek_v3": ("deepseek-r1", 5),  # three dense ones first
    "kimi_k2": ("kimi-k2", 3),  # one dense one first
    "deepseek_v32": ("deepseek-v3.2", 5),
    "glm_moe_dsa": ("glm-5", 5),
}
MODELS = [*OF_EACH.values(), ("palm-540b", 2), ("llama-4-scout", 8)]


@pytest.fixture
def plain(monkeypatch):
    """Products in JAX alone: the native ones are calls out of the program."""
    monkeypatch.setattr(kernels.products, "available", lambda: False)


def arguments(config, *, scanned, dtype="bfloat16", batch=1, tokens=1, length=300):
    cache = functools.partial(
        new_cache, config, batch=batch, length=length, at_once=tokens, scanned=scanned,
        dtype="float32" if dtype == "float32" else "bfloat16",
    )  # fmt: skip
    return (
        shapes(config, dtype, scanned=scanned),
        jax.eval_shape(cache),
        jax.ShapeDtypeStruct((batch, tokens), "int32"),
    )


def check(config, **how):
    step = functools.partial(decode_step, config)
    listed, scanned = (arguments(config, scanned=scanned, **how) for scanned in (False, True))
    counted = dot_flops(jax.jit(step).lower(*listed))
    assert counted > 0
    assert emu.trace(step, *listed, cache=1).dot_flops == counted
    assert emu.trace(step, *scanned, cache=1).dot_flops == counted


def with_layers(name, layers):
    config = dataclasses.replace(zoo.architecture(name).config, layers=layers)
    kinds = list(config.kinds)
    one_dense = name in ("kimi-k2", "deepseek-coder-v2")
    assert all(kinds.count(kind) >= 2 for kind in kinds if not one_dense or kind.routed)
    assert set(kinds) == set(zoo.architecture(name).config.kinds)
    return config


def test_each_family_is_counted():
    with Path(zoo.__file__).with_name("zoo.toml").open("rb") as file:
        entries = tomllib.load(file)
    found = {kind: entries[name]["config"]["model_type"] for kind, (name, _) in OF_EACH.items()}
    assert found == {kind: kind for kind in FAMILIES}


@pytest.mark.newest
@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize(("name", "layers"), MODELS)
def test_dot_flops_are_exactly_those_of_the_unrolled_stablehlo(name, layers):
    # Two sequences: 2 x 8 chosen experts are fewer than there are, so that they are gathered.
    check(with_layers(name, layers), batch=2)


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("name", ["llama-3.1-8b", "gpt-oss-20b"])
@pytest.mark.parametrize(
    "how",
    [
        {"batch": 1},
        {"batch": 1, "tokens": 4},
        {"batch": 2, "dtype": "mxfp4-moe"},
        {"batch": 2, "dtype": "int4-g32"},
    ],
)
def test_dot_flops_are_exact_for_one_sequence_more_tokens_and_stored_formats(name, how):
    check(with_layers(name, 4), **how)


@pytest.mark.usefixtures("plain")
def test_dot_flops_are_exact_in_bfloat16_arithmetic():
    check(dataclasses.replace(with_layers("deepseek-r1", 5), arithmetic="bfloat16"), batch=2)


@pytest.mark.newest
@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize(
    ("name", "layers", "length"), [("llama-3.2-1b", 2, 1024), ("palm-8b", 1, 128)]
)
def test_all_flops_of_a_dense_family_are_xlas_own(name, layers, length):
    # Widths 2048 and 4096. Measured: 6e-5 apart at most. XLA counts conversions too: none here.
    config = dataclasses.replace(zoo.architecture(name).config, layers=layers)
    listed = arguments(config, scanned=False, dtype="float32", length=length)
    step = functools.partial(decode_step, config)
    lowered = jax.jit(step).lower(*listed)
    work = emu.trace(step, *listed, cache=1)
    for analysis in (lowered.cost_analysis(), lowered.compile().cost_analysis()):
        assert work.flops == pytest.approx(analysis["flops"], rel=1e-3)


def test_the_count_from_stablehlo_is_right_where_it_can_be_told_by_hand():
    @jax.jit
    def inner(w, x):
        return x @ w

    def outer(w, x):
        return inner(w, inner(w, x)) + jnp.einsum("bi,ij->bj", x, w)

    w, x = jax.ShapeDtypeStruct((6, 6), "float32"), jax.ShapeDtypeStruct((5, 6), "float32")
    assert dot_flops(jax.jit(outer).lower(w, x)) == 3 * 2 * 5 * 6 * 6
    batched = jax.jit(lambda a, b: jnp.einsum("bij,bjk->bik", a, b))
    a, b = jax.ShapeDtypeStruct((3, 4, 5), "int8"), jax.ShapeDtypeStruct((3, 5, 7), "int8")
    assert dot_flops(batched.lower(a, b)) == 2 * 3 * 4 * 7 * 5
    looped = jax.jit(lambda w, x: jax.lax.fori_loop(0, 3, lambda _, x: x @ w, x))
    with pytest.raises(AssertionError, match=r"stablehlo\.while cannot be counted"):
        dot_flops(looped.lower(w, x))
