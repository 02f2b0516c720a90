"""Functions compiled as quickly as XLA can, for tests of what a program computes.

At toy size compiling is nearly all that a test takes, and most of that is spent on making fast
what runs once. The program is the same; its sums may be taken in another order.
"""

from collections.abc import Callable
from typing import Any

import jax

OPTIONS = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}


def jit_quickly(f: Callable[..., Any]) -> Any:
    return jax.jit(f, compiler_options=OPTIONS)
