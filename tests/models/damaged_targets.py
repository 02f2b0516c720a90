"""What tests/models/confined.py runs in its process: loading a file whole."""

import jax
import numpy as np
import tiny_gguf

from models.checkpoint import open_checkpoint
from models.errors import ModelError
from models.shapes import weight_shapes
from models.weights import load_weights

jax.device_put(np.ones(1)).block_until_ready()  # start the backend before memory is limited


def load(path):
    """'refused: …' or 'loaded'; anything but a ModelError, or odd weights, is an error."""
    try:
        checkpoint = open_checkpoint(path)
        weights = load_weights(checkpoint)
        tokenizer = checkpoint.tokenizer
        if checkpoint.chat_template is not None:
            checkpoint.chat_template.render([{"role": "user", "content": "a"}])
    except ModelError as error:
        return f"refused: {error}"
    found = {
        "/".join(str(key.key) for key in keys): leaf
        for keys, leaf in jax.tree_util.tree_leaves_with_path(weights)
    }
    assert {name: leaf.shape for name, leaf in found.items()} == weight_shapes(checkpoint.config)
    assert all(np.isfinite(leaf).all() for leaf in found.values())
    assert checkpoint.config.width == tiny_gguf.WIDTH
    assert checkpoint.config.layers == tiny_gguf.LAYERS
    assert tokenizer.decode(tokenizer.encode("abcab 12\n")) is not None
    return "loaded"
