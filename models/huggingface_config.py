"""A Hugging Face config.json as a `DecoderConfig`.

What the config asks for and the decoder does not have is refused by name: it would otherwise
compute something else than the model that was trained. Defaults are those of transformers'
LlamaConfig, Qwen2Config and Qwen3Config, which leave keys out that hold them.
"""

from models.config import DecoderConfig, RopeScaling
from models.errors import ModelError
from models.fields import Fields

_MODEL_TYPES = ("llama", "qwen2", "qwen3")


def decoder_config(fields: Fields, *, has_head: bool) -> DecoderConfig:
    """The decoder's config. `has_head`: the files have an output matrix (`lm_head`) of their own.

    Raises ModelError for another model_type, an unsupported feature, and missing or wrong values.
    """
    model_type = fields.text("model_type")
    if model_type not in _MODEL_TYPES:
        raise ModelError(
            f"{fields.source}: model_type {model_type!r} is not supported, "
            f"{', '.join(_MODEL_TYPES)} are"
        )
    _refuse_unsupported(fields)
    width = fields.integer("hidden_size")
    heads = fields.integer("num_attention_heads")
    default_head_width = 128 if model_type == "qwen3" else width // max(heads, 1)
    return DecoderConfig(
        vocab_size=fields.integer("vocab_size"),
        layers=fields.integer("num_hidden_layers"),
        width=width,
        heads=heads,
        kv_heads=fields.integer("num_key_value_heads", heads),
        head_width=fields.integer("head_dim", default_head_width),
        mlp_width=fields.integer("intermediate_size"),
        max_context=fields.integer("max_position_embeddings"),
        tied_embeddings=fields.flag("tie_word_embeddings", not has_head),
        rope_theta=_rope_theta(fields),
        rope_scaling=_rope_scaling(fields),
        norm_epsilon=fields.number("rms_norm_eps", 1e-6),
        attention_bias=model_type == "qwen2",
        qk_norm=model_type == "qwen3",
    )


def _refuse_unsupported(fields: Fields) -> None:
    activation = fields.text("hidden_act", "silu")
    if activation != "silu":
        raise ModelError(f"{fields.source}: hidden_act {activation!r} is not supported, 'silu' is")
    # attention_bias puts one on the output projection too, which none of the three models has.
    for feature in ("attention_bias", "mlp_bias", "use_sliding_window"):
        if fields.flag(feature, False):
            raise ModelError(f"{fields.source}: {feature} is true, which is not supported")
    if fields.has("quantization_config"):
        raise ModelError(
            f"{fields.source}: quantized weights are not supported here; take the model's "
            f"bfloat16 files, or a GGUF file"
        )
    for record in (fields, _rope(fields)):
        if record.number("partial_rotary_factor", 1.0) != 1.0:
            raise ModelError(f"{record.source}: only a partial_rotary_factor of 1 is supported")
    if fields.has("layer_types"):
        others = {kind for kind in fields.texts("layer_types") if kind != "full_attention"}
        if others:
            raise ModelError(f"{fields.source}: layers of {sorted(others)[0]} are not supported")


def _rope(fields: Fields) -> Fields:
    # transformers 5 writes `rope_parameters`, with the base in it; before, it was `rope_scaling`.
    rope = fields.record("rope_parameters" if fields.has("rope_parameters") else "rope_scaling")
    if any(isinstance(value, dict) for value in rope.values.values()):
        raise ModelError(f"{rope.source}: one RoPE for each kind of layer is not supported")
    return rope


def _rope_theta(fields: Fields) -> float:
    return _rope(fields).number("rope_theta", fields.number("rope_theta", 10_000.0))


def _rope_scaling(fields: Fields) -> RopeScaling | None:
    rope = _rope(fields)
    kind = rope.text("rope_type", rope.text("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise ModelError(f"{rope.source}: RoPE scaling {kind!r} is not supported, 'llama3' is")
    return RopeScaling(
        factor=rope.number("factor"),
        low_frequency_factor=rope.number("low_freq_factor"),
        high_frequency_factor=rope.number("high_freq_factor"),
        original_context=rope.integer("original_max_position_embeddings"),
    )
