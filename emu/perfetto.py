"""A predicted step as a trace file for ui.perfetto.dev or chrome://tracing.

The Trace Event Format ("Trace Event Format", Google, 2016): a JSON object whose `traceEvents` are
complete events (`"ph": "X"`) with times in microseconds, on one row (`tid`) for each resource;
metadata events (`"ph": "M"`) name and order the rows.
"""

import json
from pathlib import Path
from typing import Any

from emu.timeline import Timeline

# Rows from the top; memories stand between, in the order of their names.
_FIRST, _LAST = ("overhead", "compute"), ("link",)


def write_trace(timeline: Timeline, path: str | Path, name: str = "step") -> Path:
    """Write the timeline's spans to `path` (`….json`), one row for each resource.

    Raises EmuError where the timeline has no spans: see `Timeline.spans`.
    """
    path = Path(path)
    path.write_text(json.dumps({"traceEvents": events(timeline, name), "displayTimeUnit": "ns"}))
    return path


def events(timeline: Timeline, name: str = "step") -> list[dict[str, Any]]:
    """The events of a timeline, as the format has them."""
    spans = timeline.spans
    used = {span.resource for span in spans}
    memories = sorted(used - {*_FIRST, *_LAST})
    rows = [r for r in (*_FIRST, *memories, *_LAST) if r in used]
    found: list[dict[str, Any]] = [_meta("process_name", 0, {"name": name})]
    for row, resource in enumerate(rows):
        found.append(_meta("thread_name", row, {"name": resource}))
        found.append(_meta("thread_sort_index", row, {"sort_index": row}))
    found += [
        {
            "ph": "X",
            "pid": 0,
            "tid": rows.index(span.resource),
            "ts": 1e6 * span.start_s,
            "dur": 1e6 * span.seconds,
            "name": span.name,
            "cat": span.resource,
            "args": {"scope": span.scope, "line": span.line},
        }
        for span in spans
    ]
    return found


def _meta(kind: str, row: int, args: dict[str, Any]) -> dict[str, Any]:
    return {"ph": "M", "pid": 0, "tid": row, "name": kind, "args": args}
