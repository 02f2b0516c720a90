"""A sweep on two Ray workers, one of which is killed on the way; prints what came of it.

A program of its own, since Ray forks, which a process that has run JAX should not do.
"""

import contextlib
import json

import numpy as np
import psutil
import ray
from toy_grid import toy_grid, varied

import emu
from emu.design import blocks_of, computed


def kill_a_worker() -> int:
    """Kills a process that computes blocks; its number, 0 if there is none."""
    for process in psutil.Process().children(recursive=True):  # no other program's
        with contextlib.suppress(psutil.NoSuchProcess):
            if "ray::_results" in "".join(process.cmdline()[:1]):
                process.kill()
                return process.pid
    return 0


def main() -> None:
    grid = varied(emu.System(emu.chip("h100")), 200)
    blocks = list(blocks_of(toy_grid(), [grid], ["off-chip"], block_points=100))
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    order, there, killed = [], [], 0
    for block, results in computed(blocks, None, "ray"):
        order.append(block.number)
        there.append(results["step_s"])
        killed = killed or kill_a_worker()
    ray.shutdown()
    here = [results["step_s"] for _, results in computed(blocks, None)]
    equal = [bool(np.array_equal(a, b)) for a, b in zip(here, there, strict=True)]
    print(json.dumps({"order": order, "equal": equal, "killed": killed}))


if __name__ == "__main__":
    main()
