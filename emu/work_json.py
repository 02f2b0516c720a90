"""Work to and from JSON: one object, with the schema's version, that older readers can refuse."""

import dataclasses
import json
from typing import Any

from emu.errors import EmuError
from emu.work import SCHEMA, Access, Axis, Collective, Dot, Leaf, Op, Routed, Work


def dumps(work: Work) -> str:
    """One JSON object; counts are exact, however large."""
    return json.dumps(dataclasses.asdict(work), separators=(",", ":"))


def loads(text: str) -> Work:
    """Read back what `dumps` wrote; EmuError names what is wrong with anything else."""
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as e:
        raise EmuError(f"work: not JSON ({e}); give the text that Work.to_json wrote") from e
    schema = fields.get("schema") if isinstance(fields, dict) else None
    if not isinstance(schema, int) or isinstance(schema, bool):
        raise EmuError("work: no schema version; give the text that Work.to_json wrote")
    if schema > SCHEMA:
        raise EmuError(f"work: schema {schema} is newer than this emu's {SCHEMA}; update emu")
    try:
        return Work(
            leaves=tuple(_leaf(x) for x in fields["leaves"]),
            ops=tuple(_op(x) for x in fields["ops"]),
            peak_activation_bytes=fields["peak_activation_bytes"],
            notes=tuple(fields["notes"]),
            axes=tuple(Axis(**x) for x in fields.get("axes", ())),
        )
    except (KeyError, TypeError) as e:
        raise EmuError(f"work: a field is missing or unknown ({e}); write it again") from e


def _leaf(fields: dict[str, Any]) -> Leaf:
    axes = tuple(tuple(axes) for axes in fields.get("axes", ()))
    return Leaf(**fields | {"shape": tuple(fields["shape"]), "axes": axes})


def _op(fields: dict[str, Any]) -> Op:
    collective, dot = fields["collective"], fields["dot"]
    return Op(
        **fields
        | {
            "reads": tuple(_access(x) for x in fields["reads"]),
            "writes": tuple(_access(x) for x in fields["writes"]),
            "collective": None if collective is None else Collective(**collective),
            "dot": None if dot is None else Dot(**dot),
        }
        | {name: tuple(fields.get(name, ())) for name in ("axes", "summed", "indexed", "whole")}
    )


def _access(fields: dict[str, Any]) -> Access:
    rows, routed = fields["rows"], fields.get("routed")
    return Access(
        **fields
        | {
            "rows": None if rows is None else (rows[0], rows[1]),
            "contracted": tuple(fields["contracted"]),
            "axes": tuple(fields.get("axes", ())),
            "routed": None if routed is None else Routed(**routed),
        }
    )
