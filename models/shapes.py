"""Which weights a decoder has: our key path and shape of each, from the config alone.

The one place that says it; loaders check files against it, and the tree of weights is built from
it. Kernels are [out, in], as files store them.
"""

from models.config import DecoderConfig

Shapes = dict[str, tuple[int, ...]]


def layer_shapes(config: DecoderConfig) -> Shapes:
    """Shapes of one layer's weights by key path within the layer (`attention/q/kernel`)."""
    width, head_width = config.width, config.head_width
    query_width = config.heads * head_width
    cache_width = config.kv_heads * head_width
    shapes: Shapes = {"attention_norm/scale": (width,)}
    for name, out in (("q", query_width), ("k", cache_width), ("v", cache_width)):
        shapes[f"attention/{name}/kernel"] = (out, width)
        if config.attention_bias:
            shapes[f"attention/{name}/bias"] = (out,)
    if config.qk_norm:
        shapes["attention/q_norm/scale"] = (head_width,)
        shapes["attention/k_norm/scale"] = (head_width,)
    shapes["attention/o/kernel"] = (width, query_width)
    shapes["mlp_norm/scale"] = (width,)
    shapes["mlp/gate/kernel"] = (config.mlp_width, width)
    shapes["mlp/up/kernel"] = (config.mlp_width, width)
    shapes["mlp/down/kernel"] = (width, config.mlp_width)
    return shapes


def weight_shapes(config: DecoderConfig) -> Shapes:
    """Shapes of all the weights by key path (`layers/0/attention/q/kernel`)."""
    one_layer = layer_shapes(config)
    shapes: Shapes = {"embedding/weight": (config.vocab_size, config.width)}
    for layer in range(config.layers):
        shapes |= {f"layers/{layer}/{name}": shape for name, shape in one_layer.items()}
    shapes["norm/scale"] = (config.width,)
    if not config.tied_embeddings:
        shapes["head/kernel"] = (config.vocab_size, config.width)
    return shapes
