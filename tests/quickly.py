"""Functions compiled as quickly as XLA can, for tests of what a program computes.

At toy size compiling is nearly all that a test takes, and most of that is spent on making fast
what runs once. The program is the same; its sums may be taken in another order.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax

OPTIONS = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
OLDER = {"xla_cpu_use_fusion_emitters": False}  # jaxlib 0.12 has no others any more


@functools.cache
def options() -> dict[str, Any]:
    try:
        jax.jit(lambda x: x, compiler_options=OLDER)(1.0)
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" not in str(error):
            raise
        return OPTIONS
    return OPTIONS | OLDER


def jit_quickly(f: Callable[..., Any], **how: Any) -> Any:
    return jax.jit(f, compiler_options=options(), **how)


@contextlib.contextmanager
def quickly() -> Iterator[None]:
    """Within it whatever is compiled is, also by code that calls `jax.jit` itself."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
