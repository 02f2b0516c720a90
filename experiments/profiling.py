"""What the device did, op by op: a trace of `jax.profiler`, for xprof or ui.perfetto.dev."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax

from experiments.results import Results


@contextlib.contextmanager
def into(results: Results) -> Iterator[None]:
    """Trace what runs inside, and put the trace's files beside the rows, below `profile/`."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            yield
        for file in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            results.put(f"profile/{file.relative_to(folder)}", file.read_bytes())
