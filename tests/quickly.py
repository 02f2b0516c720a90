"""Functions compiled quicker still than conftest.py has it, for tests of what a program computes.

One piece of machine code for the whole program, and the older emitters: a third less for the
decoders of many families. The program is the same; its sums may be taken in another order.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax

OPTIONS = {"xla_cpu_parallel_codegen_split_count": 1}
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
