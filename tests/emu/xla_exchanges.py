"""What XLA makes of a decoder sharded over 8 host devices: its exchanges, by kind and how often.

Run as a program with XLA_FLAGS=--xla_force_host_platform_device_count=8 and one argument, a JSON
list of cases (see `exchanges_of`). The weights and the cache are laid out by `emu.spread`'s splits
with NamedSharding, the compiler's partitioner does the rest, and the exchanges in the compiled
program are counted, those of a loop's body once for each turn. Prints, for each case, them and
those of `emu.spread`, as one JSON list.
"""

import collections
import functools
import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import emu
from models.activations import gated
from models.cache import new_cache
from models.config import DecoderConfig
from models.experts_config import Experts
from models.mixture import Mixture
from models.shapes import shapes
from models.steps import decode_step
from tests.quickly import jit_quickly

KINDS = {
    "all-reduce": "all_reduce",
    "all-gather": "all_gather",
    "reduce-scatter": "reduce_scatter",
    "all-to-all": "all_to_all",
    "collective-permute": "permute",
}
# Of a mesh of 4 by 2 devices, those that divide by a degree.
MESH_AXES = {8: ("a", "b"), 4: "a", 2: "b", 1: None}


def config(layers, kv_heads, experts, shared):
    """A small Llama; or a mixture of experts like it."""
    return DecoderConfig(
        vocab_size=512,
        layers=layers,
        width=128,
        heads=16,
        kv_heads=kv_heads,
        head_width=16,
        mlp_width=256,
        max_context=64,
        tied_embeddings=False,
        experts=Experts(count=experts, chosen=2, width=64, shared_width=shared)
        if experts
        else None,
    )


def densely(mixture, x):
    """What a `Mixture` computes, by every expert for every token, most of it times 0."""
    tokens = x.reshape(-1, x.shape[-1])
    chosen, shares = mixture.router(tokens)
    bank = mixture.experts
    every = jnp.arange(bank.gate.kernel.shape[0])
    weight = ((chosen[..., None] == every) * shares[..., None]).sum(1)  # [tokens, experts]
    gate, up = (jnp.einsum("nd,efd->nef", tokens, m.kernel[...]) for m in (bank.gate, bank.up))
    hidden = gated(bank.activation, gate, up) * weight[..., None]
    return jnp.einsum("nef,edf->nd", hidden, bank.down.kernel[...]).reshape(x.shape)


def exchanges_of(
    *,
    degrees,
    scanned=True,
    batch=1,
    layers=2,
    kv_heads=8,
    experts=0,
    shared=0,
    dense=False,
    devices=None,
    jit=jit_quickly,
):
    """Exchanges of a decode step: {"emu": …, "xla": …}, lists of [kind, bytes, times].

    `dense`: XLA is given the experts' layers as dense products. Its bytes are of what comes out.
    `devices`: eight, of the default backend if not given.
    """
    of = config(layers, kv_heads, experts, shared)
    weights = shapes(of, "float32", scanned=scanned)
    cache = jax.eval_shape(
        functools.partial(new_cache, of, batch=batch, length=32, scanned=scanned)
    )
    tokens = jax.ShapeDtypeStruct((batch, 1), jnp.int32)
    step = functools.partial(decode_step, of)
    work = emu.trace(step, weights, cache, tokens, weights=0, cache=1)
    spread = emu.spread(work, emu.System(emu.chip("h100"), chips=8, **degrees))

    mesh = Mesh(np.array(devices or jax.devices()).reshape(4, 2), ("a", "b"))
    leaves = {leaf.path: leaf for leaf in work.leaves}

    def laid(kind):
        def sharded(path, x):
            dims = spread.splits[leaves[emu.work.leaf_path(path, kind)].path]
            spec = PartitionSpec(*(MESH_AXES[degree] for degree in dims))
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))

        return sharded

    weights = jax.tree_util.tree_map_with_path(laid("weights"), weights)
    cache = jax.tree_util.tree_map_with_path(laid("cache"), cache)
    sequences = PartitionSpec(MESH_AXES[degrees.get("data", 1)])
    sequences = NamedSharding(mesh, sequences)
    tokens = jax.ShapeDtypeStruct(tokens.shape, tokens.dtype, sharding=sequences)
    outs = (sequences, jax.tree.map(lambda x: x.sharding, cache))
    as_written = Mixture.__call__
    try:
        if dense:
            Mixture.__call__ = densely
        program = jit(step, out_shardings=outs).lower(weights, cache, tokens).compile()
    finally:
        Mixture.__call__ = as_written
    ours = collections.Counter()
    for op in spread.work.collectives:
        ours[op.collective.kind, op.collective.bytes] += op.count
    return {
        name: [[*key, times] for key, times in sorted(found.items())]
        for name, found in (("emu", ours), ("xla", compiled(program.as_text())))
    }


def compiled(text):
    """How often each (kind, bytes that come out) is exchanged in a compiled program."""
    computations, lines, entry = {}, [], ""
    for line in text.splitlines():
        header = re.match(r"^(ENTRY )?%?([\w.\-]+) .*\{$", line)
        if header:
            lines = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        lines.append(line)
    found = collections.Counter()

    def walk(name, times):
        for line in computations[name]:
            op = re.search(r" = (.*?) ([a-z\-]+)\(", line)
            kind = op[2].removesuffix("-start") if op else ""
            if kind in KINDS:
                found[KINDS[kind], result_bytes(op[1])] += times
            elif kind == "while":
                turns = int(re.search(r'known_trip_count":\{"n":"(\d+)"', line)[1])
                walk(re.search(r"body=%?([\w.\-]+)", line)[1], times * turns)
            elif kind in ("call", "conditional"):
                for called in re.findall(r"(?:to_apply|_computation)=%?([\w.\-]+)", line):
                    walk(called, times)

    walk(entry, 1)
    return found


def result_bytes(shape):
    """Of what an instruction gives, `(f32[1,128]{1,0}, s32[8]{0})`."""
    total = 0
    for bits, dims in re.findall(r"[a-z]+(\d+)\[([\d,]*)\]", shape):
        size = int(bits) // 8
        for n in filter(None, dims.split(",")):
            size *= int(n)
        total += size
    return total


def main():
    """Prints the exchanges of the cases in the argument."""
    assert jax.device_count() == 8
    print(json.dumps([exchanges_of(**case) for case in json.loads(sys.argv[1])]))


if __name__ == "__main__":
    main()
