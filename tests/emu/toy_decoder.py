"""A decoder of the Llama family in plain JAX, written for the tracer's tests alone.

Weights are a dict, the cache is [batch, length, kv heads, head width] per layer. `step` runs
`layers` unrolled from a list or scanned from a stack, on token ids [batch, tokens].
"""

import dataclasses

import jax
import jax.numpy as jnp

Shape = jax.ShapeDtypeStruct


@dataclasses.dataclass(frozen=True, kw_only=True)
class Toy:
    layers: int = 3
    width: int = 64
    heads: int = 4
    kv_heads: int = 2
    head: int = 16
    mlp: int = 96
    vocab: int = 128
    length: int = 32
    batch: int = 1
    dtype: str = "float32"
    tied: bool = False

    @property
    def layer_elements(self) -> int:
        """Of the matrices of one layer, and its two norms."""
        q, kv = self.heads * self.head, self.kv_heads * self.head
        return 2 * self.width * q + 2 * self.width * kv + 3 * self.width * self.mlp + 2 * self.width

    def layer_shapes(self, *stack: int):
        q, kv, d, m = self.heads * self.head, self.kv_heads * self.head, self.width, self.mlp
        sizes = {
            "norm1": (d,),
            "q": (d, q),
            "k": (d, kv),
            "v": (d, kv),
            "o": (q, d),
            "norm2": (d,),
            "gate": (d, m),
            "up": (d, m),
            "down": (m, d),
        }
        return {name: Shape((*stack, *size), self.dtype) for name, size in sizes.items()}

    def weights(self, stacked: bool):
        tree = {
            "embedding": Shape((self.vocab, self.width), self.dtype),
            "layers": self.layer_shapes(self.layers)
            if stacked
            else [self.layer_shapes() for _ in range(self.layers)],
            "norm": Shape((self.width,), self.dtype),
        }
        if not self.tied:
            tree["head"] = Shape((self.width, self.vocab), self.dtype)
        return tree

    def cache(self, stacked: bool):
        one = (self.batch, self.length, self.kv_heads, self.head)
        if stacked:
            return {n: Shape((self.layers, *one), self.dtype) for n in "kv"}
        return {n: [Shape(one, self.dtype) for _ in range(self.layers)] for n in "kv"}

    def tokens(self, count: int = 1):
        return Shape((self.batch, count), "int32"), Shape((), "int32")


def norm(x, scale):
    variance = jnp.mean(jnp.square(x.astype(jnp.float32)), axis=-1, keepdims=True)
    return (x * jax.lax.rsqrt(variance + 1e-6)).astype(x.dtype) * scale


def rope(x, position):
    half = x.shape[-1] // 2
    frequency = 1e4 ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = position[None, :, None, None] * frequency
    a, b = jnp.split(x, 2, axis=-1)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


def attention(toy, w, x, cache, position):
    k_cache, v_cache = cache
    batch, tokens, _ = x.shape
    group = toy.heads // toy.kv_heads
    places = position + jnp.arange(tokens)
    q = rope((x @ w["q"]).reshape(batch, tokens, toy.heads, toy.head), places)
    k = rope((x @ w["k"]).reshape(batch, tokens, toy.kv_heads, toy.head), places)
    v = (x @ w["v"]).reshape(batch, tokens, toy.kv_heads, toy.head)
    k_cache = jax.lax.dynamic_update_slice(k_cache, k.astype(k_cache.dtype), (0, position, 0, 0))
    v_cache = jax.lax.dynamic_update_slice(v_cache, v.astype(v_cache.dtype), (0, position, 0, 0))
    q = q.reshape(batch, tokens, toy.kv_heads, group, toy.head)
    scores = jnp.einsum("btkgd,bskd->bkgts", q, k_cache.astype(q.dtype)) / toy.head**0.5
    visible = jnp.arange(k_cache.shape[1])[None, :] <= places[:, None]
    scores = jax.nn.softmax(jnp.where(visible, scores, -1e30).astype(jnp.float32), axis=-1)
    out = jnp.einsum("bkgts,bskd->btkgd", scores.astype(q.dtype), v_cache.astype(q.dtype))
    return out.reshape(batch, tokens, -1) @ w["o"], (k_cache, v_cache)


def layer(toy, w, x, cache, position):
    with jax.named_scope("attention"):
        y, cache = attention(toy, w, norm(x, w["norm1"]), cache, position)
    x = x + y
    with jax.named_scope("mlp"):
        y = norm(x, w["norm2"])
        x = x + (jax.nn.silu(y @ w["gate"]) * (y @ w["up"])) @ w["down"]
    return x, cache


def step(toy, w, cache, tokens, position):
    x = w["embedding"][tokens]
    if isinstance(w["layers"], list):
        updated = []
        for one, *pair in zip(w["layers"], cache["k"], cache["v"], strict=True):
            x, pair = layer(toy, one, x, pair, position)  # noqa: PLW2901
            updated.append(pair)
        cache = {"k": [k for k, _ in updated], "v": [v for _, v in updated]}
    else:

        def body(x, entry):
            one, *pair = entry
            return layer(toy, one, x, pair, position)

        x, (k, v) = jax.lax.scan(body, x, (w["layers"], cache["k"], cache["v"]))
        cache = {"k": k, "v": v}
    x = norm(x, w["norm"])
    head = w["embedding"].T if toy.tied else w["head"]
    return x @ head, cache
