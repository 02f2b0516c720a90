"""Runs a function over many files in another process, where memory and time are limited.

That process reports each file as it starts and ends it; so a crash, a hang or memory eaten up is
laid to the file that it happened with, and the run goes on with the next one in a new process.

    python confined.py MODULE:FUNCTION EXTRA_MB PATH…
"""

import importlib
import json
import os
import resource
import select
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
START_S = 600.0  # to import what the function needs, on a busy machine


def outcomes(target, paths, *, extra_mb=256, limit_s=30.0):
    """{path: what the function returned, or 'crashed …', 'hung', or the error's type}."""
    found, left = {}, list(paths)
    while left:
        found |= dict(_one_process(target, left, extra_mb, limit_s))
        left = [path for path in left if path not in found]
    return found


def _one_process(target, paths, extra_mb, limit_s):
    command = [sys.executable, "-W", "error", __file__, target, str(extra_mb)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=HERE, bufsize=0
    ) as process:
        process.stdin.write("\n".join(map(str, paths)).encode())
        process.stdin.close()
        running, buffer = None, b""
        patience_s = START_S
        try:
            while True:
                if not _speaks(process.stdout, patience_s):
                    assert running, f"{target} did not start within {START_S} s"
                    yield running, f"hung for {limit_s} s"
                    return
                data = os.read(process.stdout.fileno(), 2**16)
                if not data:
                    break
                buffer += data
                *lines, buffer = buffer.split(b"\n")
                for line in lines:
                    path, outcome = json.loads(line)
                    running = path if outcome is None else None
                    if outcome is not None:
                        yield path, outcome
                patience_s = limit_s
        finally:
            process.kill()
        status = process.wait()
        assert running or status == 0, f"{target} did not start: exit status {status}"
        if running:
            yield running, f"crashed with status {status}"


def _speaks(stream, patience_s):
    # In ten waits: a machine that stood still meanwhile (both processes with it) costs only one.
    return any(select.select([stream], [], [], patience_s / 10)[0] for _ in range(10))


def _report(path, outcome):
    sys.stdout.write(json.dumps([path, outcome]) + "\n")
    sys.stdout.flush()


def main():
    target, extra_mb = sys.argv[1:]
    module, name = target.split(":")
    function = getattr(importlib.import_module(module), name)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = in_use + int(extra_mb) * 10**6
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for path in sys.stdin.read().split("\n"):
        _report(path, None)
        try:
            outcome = function(path)
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
        _report(path, outcome)


if __name__ == "__main__":
    main()
