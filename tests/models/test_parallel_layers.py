"""PaLM's layers, against its formula written out: there is no other program to ask."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

from models import zoo
from models.cache import new_cache
from models.config import DecoderConfig
from models.stacking import stack_layers
from models.steps import decode_step, shapes
from tests.quickly import jit_quickly

CONFIG = DecoderConfig(
    vocab_size=48, layers=2, width=16, heads=4, kv_heads=1, head_width=8, mlp_width=24,
    max_context=64, tied_embeddings=True, layer_norm=True, norm_bias=False, parallel=True,
)  # fmt: skip
TOKENS = jnp.asarray(np.random.default_rng(3).integers(0, 48, (1, 12)), jnp.int32)

step = jit_quickly(functools.partial(decode_step, CONFIG))


def weights():
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.4, leaf.shape), leaf.dtype), shapes(CONFIG)
    )


def normed(x, scale):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + CONFIG.norm_epsilon) * scale


def turned(x):
    """RoPE by complex numbers: channel i and i + 4 of 8 are one number. x [T, heads, 8]."""
    angles = np.arange(len(x))[:, None, None] / 10_000 ** (np.arange(4) / 4)
    z = (x[..., :4] + 1j * x[..., 4:]) * np.exp(1j * angles)
    return np.concatenate([z.real, z.imag], axis=-1)


def palm(w, tokens):
    """y = x + MLP(norm(x)) + attention(norm(x)), one head of keys and values; [T, vocab]."""
    w = jax.tree.map(np.float64, w)
    x = w["embedding"]["weight"][tokens]
    causal = np.tril(np.ones((len(tokens), len(tokens)), bool))
    for n in range(CONFIG.layers):
        layer = w["layers"][n]
        y = normed(x, layer["norm"]["scale"])
        part = {name: y @ layer["attention"][name]["kernel"].T for name in "qkv"}
        q, k = turned(part["q"].reshape(-1, 4, 8)), turned(part["k"][:, None])[:, 0]
        scores = np.where(causal, np.einsum("thw,lw->htl", q, k) / np.sqrt(8), -np.inf)
        shares = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        mixed = np.einsum("htl,lw->thw", shares, part["v"]).reshape(len(tokens), -1)
        gate, up = (y @ layer["mlp"][name]["kernel"].T for name in ("gate", "up"))
        swiglu = gate / (1 + np.exp(-gate)) * up
        x = (
            x
            + mixed @ layer["attention"]["o"]["kernel"].T
            + swiglu @ layer["mlp"]["down"]["kernel"].T
        )
    return normed(x, w["norm"]["scale"]) @ w["embedding"]["weight"].T


def test_parallel_layers_follow_the_formula():
    w = weights()
    logits, _ = step(w, new_cache(CONFIG, batch=1, length=16), TOKENS)
    chex.assert_trees_all_close(
        np.asarray(logits[0]), palm(w, TOKENS[0]).astype(np.float32), atol=1e-5
    )


def test_prefill_decode_and_scan_agree():
    w = weights()
    whole, _ = step(w, new_cache(CONFIG, batch=1, length=16), TOKENS)
    for tree, scanned in ((w, False), (stack_layers(CONFIG, w), True)):
        cache = new_cache(CONFIG, batch=1, length=16, scanned=scanned)
        first, cache = step(tree, cache, TOKENS[:, :8])
        rest = []
        for n in range(8, 12):
            logits, cache = step(tree, cache, TOKENS[:, n : n + 1])
            rest.append(logits)
        got = jnp.concatenate([first, *rest], axis=1)
        chex.assert_trees_all_close(got, whole, atol=2e-5)


def test_palm_is_built_of_them():
    config = zoo.architecture("palm-540b").config
    assert config.parallel
    assert config.kv_heads == 1
