"""Refusing a machine without the accelerator that was asked for, before hours go by on its CPU."""

import jax

from experiments.errors import ExperimentError

KINDS = ("cpu", "gpu", "tpu")
_INSTALL = {"gpu": "jax[cuda12] (or the ROCm build) and a driver", "tpu": "jax[tpu]"}


def check(asked: str | None) -> None:
    """Raises ExperimentError where JAX runs on another kind of device than `asked`; None: any."""
    found = jax.default_backend()
    if asked in (None, found):
        return
    if asked == "cpu":
        remedy = "set JAX_PLATFORMS=cpu"
    else:
        remedy = f"install {_INSTALL[str(asked)]}, or leave --device out"
    raise ExperimentError(
        f"--device={asked}, and JAX found {found} ({jax.devices()[0].device_kind}) alone: {remedy}"
    )
