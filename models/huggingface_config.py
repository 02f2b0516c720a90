"""A Hugging Face config.json as a `DecoderConfig`.

What most families say the same way is read here, the rest by the family (`models.families`). What
the config asks for and the decoder does not have is refused by name: it would otherwise compute
something else than the model that was trained.
"""

import math
from typing import Any

from models.config import DecoderConfig, RopeScaling
from models.errors import ModelError
from models.families import FAMILIES
from models.families.family import Family
from models.fields import Fields
from models.rope_config import Scaling, Stretch, Yarn


def family_of(fields: Fields) -> Family:
    """The family that `model_type` names; ModelError for another one."""
    model_type = fields.text("model_type")
    if model_type not in FAMILIES:
        raise ModelError(
            f"{fields.source}: model_type {model_type!r} is not supported, "
            f"{', '.join(FAMILIES)} are"
        )
    return FAMILIES[model_type]


def decoder_config(fields: Fields, *, has_head: bool) -> DecoderConfig:
    """The decoder's config. `has_head`: the files have an output matrix (`lm_head`) of their own.

    Raises ModelError for another model_type, an unsupported feature, and missing or wrong values.
    """
    family = family_of(fields)
    fields = Fields(values={**family.defaults, **fields.values}, source=fields.source)
    _refuse_unsupported(fields, family.handles)
    width = fields.integer("hidden_size")
    heads = fields.integer("num_attention_heads")
    common: dict[str, Any] = {
        "vocab_size": fields.integer("vocab_size"),
        "layers": fields.integer("num_hidden_layers"),
        "width": width,
        "heads": heads,
        "kv_heads": fields.integer("num_key_value_heads", heads),
        "head_width": fields.integer("head_dim", width // max(heads, 1)),
        "mlp_width": fields.integer("intermediate_size"),
        "max_context": fields.integer("max_position_embeddings"),
        "tied_embeddings": fields.flag("tie_word_embeddings", not has_head),
        "norm_epsilon": fields.number("rms_norm_eps", 1e-6),
    }
    if "rope" not in family.handles:
        common |= {"rope_theta": _rope_theta(fields), "rope_scaling": _rope_scaling(fields)}
    return DecoderConfig(**common | family.settings(fields))


def _refuse_unsupported(fields: Fields, handled: frozenset[str]) -> None:
    activation = fields.text("hidden_act", "silu")
    wanted = "gelu_pytorch_tanh" if "hidden_act" in handled else "silu"
    if activation != wanted:
        raise ModelError(
            f"{fields.source}: hidden_act {activation!r} is not supported, {wanted!r} is"
        )
    # attention_bias puts one on the output projection too, which few models have.
    for feature in ("attention_bias", "mlp_bias", "use_sliding_window"):
        if feature not in handled and fields.flag(feature, False):
            raise ModelError(f"{fields.source}: {feature} is true, which is not supported")
    if fields.has("quantization_config"):
        raise ModelError(
            f"{fields.source}: quantized weights are not supported here; take the model's "
            f"bfloat16 files, or a GGUF file"
        )
    if "partial_rotary_factor" not in handled and "rope" not in handled:
        for record in (fields, _rope(fields)):
            if record.number("partial_rotary_factor", 1.0) != 1.0:
                raise ModelError(f"{record.source}: only a partial_rotary_factor of 1 is supported")
    if "layer_types" not in handled and fields.has("layer_types"):
        usual = {"full_attention", *(["sliding_attention"] if "sliding_window" in handled else [])}
        others = set(fields.texts("layer_types")) - usual
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


def _rope_scaling(fields: Fields) -> Scaling | None:
    rope = _rope(fields)
    kind = rope.text("rope_type", rope.text("type", "default"))
    match kind:
        case "default":
            return None
        case "linear":
            return Stretch(factor=rope.number("factor"))
        case "llama3":
            return RopeScaling(
                factor=rope.number("factor"),
                low_frequency_factor=rope.number("low_freq_factor"),
                high_frequency_factor=rope.number("high_freq_factor"),
                original_context=rope.integer("original_max_position_embeddings"),
            )
        case "yarn":
            return Yarn(
                factor=rope.number("factor"),
                original_context=rope.integer("original_max_position_embeddings"),
                fast_turns=rope.number("beta_fast", 32.0),
                slow_turns=rope.number("beta_slow", 1.0),
                magnitude=_magnitude(rope),
                whole_channels=rope.flag("truncate", True),
            )
    raise ModelError(
        f"{rope.source}: RoPE scaling {kind!r} is not supported; linear, llama3 and yarn are"
    )


def _magnitude(rope: Fields) -> float:
    """What cosine and sine are multiplied by, as transformers infers it."""
    if rope.has("attention_factor"):
        return rope.number("attention_factor")

    def growth(rate: float) -> float:
        factor = rope.number("factor")
        return 0.1 * rate * math.log(factor) + 1 if factor > 1 else 1.0

    if rope.number("mscale", 0.0) and rope.number("mscale_all_dim", 0.0):
        return growth(rope.number("mscale")) / growth(rope.number("mscale_all_dim"))
    return growth(1.0)
