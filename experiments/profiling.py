"""What the device did, op by op: a trace of `jax.profiler`, for xprof or ui.perfetto.dev."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax

from experiments.results import Results


@contextlib.contextmanager
def into(results: Results, wanted: bool) -> Iterator[list[str]]:
    """Trace what runs inside, if wanted, and put the files beside the rows, below `profile/`.

    Gives a list that holds where the files are, once they are there.
    """
    if not wanted:
        yield []
        return
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # each call of Python would be an event, and slow what is timed
    written: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            yield written
        for file in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            name = f"profile/{file.relative_to(folder)}"
            written.append(str(results.put(name, file.read_bytes())))
