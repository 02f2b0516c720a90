"""Off-chip by memory kind: the weights lie in another memory of JAX's, and each step fetches them.

The off-chip leaves are kept in the runtime's `pinned_host` memory and copied to `device` memory
inside the jitted step: layers that the function scans over a layer ahead (`emu.prefetch`), any
other where XLA likes. On a GPU or TPU that is the link to the host. A CPU backend has these kinds
too, but they are the same memory and XLA drops the copy: there the path can be tested, and the two
placements take the same time.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from emu import prefetch
from emu.errors import EmuError


def check_kind(name: str, device: jax.Device) -> None:
    """Raises EmuError where the device has no such memory."""
    kinds = [memory.kind for memory in device.addressable_memories()]
    if name not in kinds:
        raise EmuError(f"{device} has no memory kind {name!r}: it has {', '.join(kinds)}")


def stored(leaves: Sequence[jax.Array], kinds: Sequence[str]) -> list[jax.Array]:
    """The leaves, each in its memory kind."""
    put = [
        jax.device_put(leaf, leaf.sharding.with_memory_kind(kind))
        for leaf, kind in zip(leaves, kinds, strict=True)
    ]
    jax.block_until_ready(put)
    return put


def fetching_inside(
    fn: Callable[..., Any],
    rebuild: Callable[[Sequence[Any]], Any],
    kinds: Sequence[str],
    argnum: int,
) -> Callable[..., Any]:
    """`(leaves, *args, **kwargs) -> fn(…)` for use in a jitted program, with the copies inside."""
    far = [kind != "device" for kind in kinds]

    def call(leaves: Sequence[jax.Array], *args: Any, **kwargs: Any) -> Any:
        def on_device(leaves: Sequence[Any]) -> Any:
            return fn(*args[:argnum], rebuild(leaves), *args[argnum:], **kwargs)

        return prefetch.call(on_device, leaves, far)

    return call


def fetching(
    fn: Callable[..., Any],
    rebuild: Callable[[Sequence[Any]], Any],
    held: Sequence[jax.Array],
    kinds: Sequence[str],
    argnum: int,
) -> Callable[..., Any]:
    """`fn` without its weights, jitted, with the copies inside.

    What `fn` donates stays donated. Arguments that hold no arrays (a config, a Python number) are
    constants of the program, and must be hashable.
    """
    programs: dict[Any, Callable[..., Any]] = {}
    inside = fetching_inside(fn, rebuild, kinds, argnum)

    def call(*args: Any, **kwargs: Any) -> Any:
        fixed = {at: arg for at, arg in enumerate(args) if not _has_arrays(arg)}
        named = {name: arg for name, arg in kwargs.items() if not _has_arrays(arg)}
        moving = [arg for at, arg in enumerate(args) if at not in fixed]
        moving_named = {name: arg for name, arg in kwargs.items() if name not in named}
        key = (len(args), tuple(fixed.items()), tuple(kwargs), tuple(named.items()))
        try:
            program = programs.get(key)
        except TypeError as error:
            raise EmuError(f"an argument without arrays must be hashable: {error}") from error
        if program is None:
            program = programs[key] = build(fixed, named, args, kwargs)
        return program(list(held), *moving, **moving_named)

    def build(
        fixed: dict[int, Any], named: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Callable[..., Any]:
        def step(weights: list[jax.Array], *moving: Any, **moving_named: Any) -> Any:
            rest = iter(moving)
            every = [fixed[at] if at in fixed else next(rest) for at in range(len(args))]
            return inside(weights, *every, **named, **moving_named)

        shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in held]
        with_weights = [*args[:argnum], rebuild(shapes), *args[argnum:]]
        positions, names = _donated(fn, with_weights, kwargs)
        # Positions among `step`'s arguments: the weights stand first there, not at `argnum`.
        order = [at for at in range(len(args)) if at not in fixed]
        moved = [at if at < argnum else at - 1 for at in positions]
        return jax.jit(
            step,
            donate_argnums=tuple(1 + order.index(at) for at in moved),
            donate_argnames=names,
        )

    return call


def _donated(
    fn: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[list[int], tuple[str, ...]]:
    """The positions and names of the arguments that a jitted function donates as a whole."""
    if not hasattr(fn, "trace"):
        return [], ()
    by_position, by_name = fn.trace(*args, **kwargs).args_info
    order = list(range(len(args)))
    if len(by_position) < len(args):  # static arguments are not listed
        order = [at for at in order if _has_arrays(args[at])]
    if len(by_position) != len(order):
        raise EmuError(
            "with memory kinds a jitted function's numbers must be arrays where they are not "
            "static: pass jnp.asarray(number)"
        )
    gone = [at for at, info in zip(order, by_position, strict=True) if _all_donated(info)]
    return gone, tuple(name for name, info in by_name.items() if _all_donated(info))


def _all_donated(info: Any) -> bool:
    leaves = jax.tree.leaves(info, is_leaf=lambda x: hasattr(x, "donated"))
    return bool(leaves) and all(leaf.donated for leaf in leaves)


def _has_arrays(arg: Any) -> bool:
    arrays = jax.Array | np.ndarray | jax.ShapeDtypeStruct
    return any(isinstance(leaf, arrays) for leaf in jax.tree.leaves(arg))
