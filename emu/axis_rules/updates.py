"""Updates in place: what is written whole of the target walks the target's entries."""

from emu.axes import Ids, together
from emu.axis_rules.elementwise import axes_of
from emu.axis_table import Followed, axis_rule
from emu.interpreter import Site
from emu.values import Value


@axis_rule("dynamic_update_slice")
def dynamic_update_slice(site: Site, target: Value, update: Value, *_: Value) -> Followed:
    """The target's axes, some of which only a part is written of."""
    axes, new = axes_of(site, target), axes_of(site, update)
    picked: list[Ids] = []
    for d, (n, m) in enumerate(zip(target.shape.dims, update.shape.dims, strict=True)):
        if n == m:
            site.tape.factors.unify(axes[d], new[d])
        else:
            picked.append(axes[d])
    written = together(new)
    return Followed(outs=[axes], axes=written, indexed=together(picked), written=written)


@axis_rule("scatter", "scatter-add", "scatter_add", "scatter-sub", "scatter-mul", "scatter-min",
           "scatter-max", "scatter_mul", "scatter_min", "scatter_max")  # fmt: skip
def scatter(site: Site, target: Value, indices: Value, update: Value) -> Followed:
    """Windows of the target at a matrix of indices."""
    numbers, factors = site.params["dimension_numbers"], site.tape.factors
    axes, index, new = axes_of(site, target), axes_of(site, indices), axes_of(site, update)
    inserted = [int(d) for d in numbers.inserted_window_dims]
    batching = [int(d) for d in getattr(numbers, "operand_batching_dims", ())]
    index_batching = [int(d) for d in getattr(numbers, "scatter_indices_batching_dims", ())]
    window = [int(d) for d in numbers.update_window_dims]
    kept = [d for d in range(len(axes)) if d not in inserted and d not in batching]
    picked = [axes[d] for d in inserted]
    for d, w in zip(kept, window, strict=True):
        if target.shape.dims[d] == update.shape.dims[w]:
            factors.unify(axes[d], new[w])
        else:
            picked.append(axes[d])
    for w, ids in zip((d for d in range(len(new)) if d not in window), index, strict=False):
        factors.unify(new[w], ids)
    for d, i in zip(batching, index_batching, strict=True):
        factors.unify(axes[d], index[i])
    written = together(new)
    return Followed(outs=[axes], axes=written, indexed=together(picked), written=written)
