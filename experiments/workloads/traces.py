"""Traces of real traffic, to be replayed: three formats, told apart by the file's name and keys.

- Azure (`.csv`): a line a call, with TIMESTAMP, ContextTokens, GeneratedTokens
  (https://github.com/Azure/AzurePublicDataset). Seconds count from the first line.
- Mooncake (`.jsonl`): objects with timestamp (milliseconds), input_length, output_length
  (https://github.com/kvcache-ai/Mooncake); `hash_ids` are not read, so that no prefix is shared.
- Steps of agents (`.jsonl`), our own: objects with `session` (any string), `arrival_s` (of the
  session's first step; left out in the others), `delay_s` (from the answer before to this step; 0
  if left out), `request` (counts the person's requests in the session; 0 if left out),
  `prefix_tokens`, `append_tokens`, `output_tokens`, and `tool_s` (0 if left out). The steps of a
  session stand in order; sessions may be mixed.

Whatever is wrong is refused with the number of its line.
"""

import csv
import datetime
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments.errors import ExperimentError
from experiments.workloads.traffic import Traffic

_AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_MOONCAKE = ("timestamp", "input_length", "output_length")
_STEPS = ("session", "prefix_tokens", "append_tokens", "output_tokens")
_MOST = 10**9  # tokens, seconds: more is a mistake


def read_trace(path: Path | str) -> Traffic:
    """The traffic of a trace file. Raises ExperimentError with the line that is wrong."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError(f"trace {path}: cannot be read ({error})") from error
    if path.suffix == ".csv":
        return _alone(_azure(text, path))
    if path.suffix == ".jsonl":
        records = list(_objects(text, path))
        if not records:
            raise ExperimentError(f"trace {path}: has no lines")
        if "session" in records[0][1]:
            return _sessions(records, path)
        return _alone(_mooncake(records, path))
    raise ExperimentError(
        f"trace {path}: the name ends in neither .csv (Azure) nor .jsonl (Mooncake, agents' steps)"
    )


Call = tuple[float, int, int]  # seconds, tokens in, tokens out


def _azure(text: str, path: Path) -> list[Call]:
    rows = csv.reader(text.splitlines())
    header = next(rows, [])
    missing = [name for name in _AZURE if name not in header]
    if missing:
        raise ExperimentError(
            f"trace {path}, line 1: no column {missing[0]!r}; it has {', '.join(header) or 'none'}"
        )
    columns = [header.index(name) for name in _AZURE]
    found = []
    for line, row in enumerate(rows, start=2):
        if not row:
            continue
        where = f"trace {path}, line {line}"
        if len(row) < len(header):
            raise ExperimentError(f"{where}: {len(row)} of {len(header)} columns")
        when, given, made = (row[column] for column in columns)
        try:
            # Seven digits of a second there, six at most here.
            moment = datetime.datetime.fromisoformat(when.strip()[:26])
        except ValueError:
            raise ExperimentError(f"{where}: TIMESTAMP {when!r} is no date and time") from None
        seconds = (moment - datetime.datetime(1970, 1, 1, tzinfo=moment.tzinfo)).total_seconds()
        found.append(
            (seconds, _count(given, "ContextTokens", where), _count(made, "GeneratedTokens", where))
        )
    return _ordered(found, path)


def _mooncake(records: list[tuple[int, dict[str, Any]]], path: Path) -> list[Call]:
    found = []
    for line, record in records:
        where = f"trace {path}, line {line}"
        when, given, made = _fields(record, _MOONCAKE, where)
        seconds = _seconds(when, "timestamp", where) / 1e3
        found.append(
            (seconds, _count(given, "input_length", where), _count(made, "output_length", where))
        )
    return _ordered(found, path)


def _ordered(calls: list[Call], path: Path) -> list[Call]:
    if not calls:
        raise ExperimentError(f"trace {path}: has no calls")
    calls.sort(key=lambda call: call[0])
    first = calls[0][0]
    return [(seconds - first, given, made) for seconds, given, made in calls]


def _alone(calls: list[Call]) -> Traffic:
    seconds, given, made = zip(*calls, strict=True)
    number = np.arange(len(calls))
    return Traffic(
        start_s=np.array(seconds, np.float64),
        session=number,
        request=number,
        delay_s=np.zeros(len(calls)),
        prefix_tokens=np.zeros(len(calls), np.int64),
        append_tokens=np.array(given, np.int64),
        output_tokens=np.array(made, np.int64),
        tool_s=np.zeros(len(calls)),
        observed_llm_s=np.full(len(calls), np.nan),
    )


def _sessions(records: list[tuple[int, dict[str, Any]]], path: Path) -> Traffic:
    by_session: dict[str, list[dict[str, float]]] = {}
    starts: dict[str, float] = {}
    for line, record in records:
        where = f"trace {path}, line {line}"
        name, prefix, append, output = _fields(record, _STEPS, where)
        if not isinstance(name, str):
            raise ExperimentError(f"{where}: session is a string, not {name!r}")
        if name not in starts:
            if "arrival_s" not in record:
                raise ExperimentError(f"{where}: the first step of {name!r} has no arrival_s")
            starts[name] = _seconds(record["arrival_s"], "arrival_s", where)
        step = {
            "prefix": _count(prefix, "prefix_tokens", where, least=0),
            "append": _count(append, "append_tokens", where),
            "output": _count(output, "output_tokens", where),
            "delay": _seconds(record.get("delay_s", 0.0), "delay_s", where),
            "tool": _seconds(record.get("tool_s", 0.0), "tool_s", where),
            "request": _count(record.get("request", 0), "request", where, least=0),
        }
        by_session.setdefault(name, []).append(step)
        before = by_session[name][-2:-1]
        if before and before[0]["request"] > step["request"]:
            raise ExperimentError(f"{where}: request goes back in session {name!r}")
    steps = [step for of in by_session.values() for step in of]
    session = np.repeat(np.arange(len(by_session)), [len(of) for of in by_session.values()])
    request = np.array([step["request"] for step in steps])
    new = np.append(True, (np.diff(session) > 0) | (np.diff(request) > 0))
    return Traffic(
        start_s=np.array(list(starts.values())),
        session=session,
        request=np.cumsum(new) - 1,
        delay_s=np.array([step["delay"] for step in steps]),
        prefix_tokens=np.array([step["prefix"] for step in steps], np.int64),
        append_tokens=np.array([step["append"] for step in steps], np.int64),
        output_tokens=np.array([step["output"] for step in steps], np.int64),
        tool_s=np.array([step["tool"] for step in steps]),
        observed_llm_s=np.full(len(steps), np.nan),
    )


def _objects(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, words in enumerate(text.splitlines(), start=1):
        if not words.strip():
            continue
        try:
            record = json.loads(words)
        except ValueError as error:
            raise ExperimentError(f"trace {path}, line {line}: no JSON ({error})") from None
        if not isinstance(record, dict):
            raise ExperimentError(f"trace {path}, line {line}: no JSON object")
        yield line, record


def _fields(record: dict[str, Any], names: tuple[str, ...], where: str) -> list[Any]:
    for name in names:
        if name not in record:
            raise ExperimentError(f"{where}: no {name!r}; a line has {', '.join(names)}")
    return [record[name] for name in names]


def _count(given: Any, name: str, where: str, least: int = 1) -> int:
    return int(_number(given, name, where, least, whole=True))


def _seconds(given: Any, name: str, where: str) -> float:
    return _number(given, name, where, 0, whole=False)


def _number(given: Any, name: str, where: str, least: int, *, whole: bool) -> float:
    read: Callable[[Any], float] = float
    try:
        number = math.nan if isinstance(given, bool) else read(given)
    except (TypeError, ValueError):
        number = math.nan
    if not least <= number <= _MOST or (whole and number != int(number)):
        kind = "a whole number" if whole else "a number"
        raise ExperimentError(f"{where}: {name} is {kind} from {least} to {_MOST:,}, not {given!r}")
    return number
