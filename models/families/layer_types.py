"""Which layers are local, out of a config.json's `layer_types`."""

from models.errors import ModelError
from models.fields import Fields


def local_pattern(fields: Fields, local: str, other: str, *, every: int) -> tuple[bool, ...]:
    """The shortest pattern that repeats over the layers; True where a layer is `local`.

    Without `layer_types` the last of every `every` layers is `other`. Raises ModelError for a
    type that is neither, or a list that is not as long as the layers are many.
    """
    if every < 1:
        raise ModelError(f"{fields.source}: a pattern of {every} layers cannot repeat")
    if not fields.has("layer_types"):
        return tuple(place + 1 < every for place in range(every))
    types, layers = fields.texts("layer_types"), fields.integer("num_hidden_layers")
    strange = [kind for kind in types if kind not in (local, other)]
    if strange:
        raise ModelError(f"{fields.source}: layers of {strange[0]} are not supported")
    if len(types) != layers or not types:
        raise ModelError(
            f"{fields.source}: layer_types has {len(types)} entries for {layers} layers"
        )
    flags = tuple(kind == local for kind in types)
    return next(
        flags[:period]
        for period in range(1, layers + 1)
        if all(flags[n] == flags[n % period] for n in range(layers))
    )
