"""Work as a table for people: totals, then a row for each kernel."""

from collections.abc import Iterable

from emu.work import Op, Work

_ROWS = 60  # rows shown; the rest is summed up


def table(work: Work) -> str:
    """Totals in GB and GFLOP, then ops in order with per-call totals."""
    rows = _grouped(work.ops)
    head = ("op", "where", "runs", "GFLOP", "weights MB", "cache MB", "activations MB")
    cells: list[tuple[str, ...]] = [head, *(_row(ops) for ops in rows[:_ROWS])]
    if len(rows) > _ROWS:
        rest = [op for ops in rows[_ROWS:] for op in ops]
        cells.append((f"… {len(rows) - _ROWS} more", *_row(rest)[1:]))
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = [_totals(work), ""]
    for row in cells:
        left = [row[i].ljust(widths[i]) for i in range(2)]
        right = [row[i].rjust(widths[i]) for i in range(2, len(row))]
        lines.append("  ".join(left + right).rstrip())
    lines += [f"note: {note}" for note in work.notes]
    return "\n".join(lines)


def _totals(work: Work) -> str:
    held = {
        kind: sum(leaf.bytes for leaf in work.leaves if leaf.kind == kind)
        for kind in ("weights", "cache")
    }
    by_dtype = ", ".join(f"{n / 1e9:.6g} {d}" for d, n in sorted(work.flops_by_dtype.items()))
    return "\n".join(
        [
            f"weights      {_gb(work.weight_bytes)} read of {_gb(held['weights'])} held",
            f"cache        {_gb(work.cache_bytes)} read, {_gb(work.cache_written_bytes)} written "
            f"of {_gb(held['cache'])} held",
            f"activations  {_gb(work.activation_bytes)} moved, "
            f"{_gb(work.peak_activation_bytes)} alive at most",
            f"GFLOP        {work.flops / 1e9:.6g} ({by_dtype})",
            f"kernels      {work.kernels}",
        ]
    )


def _gb(count: int) -> str:
    return f"{count / 1e9:.6g} GB"


def _grouped(ops: Iterable[Op]) -> list[list[Op]]:
    """A kernel is one row, with what rides along to it."""
    rows: list[list[Op]] = []
    riding: list[Op] = []
    for op in ops:
        if op.kernel is None:
            riding.append(op)
        elif rows and not riding and rows[-1][-1].kernel == op.kernel:
            rows[-1].append(op)
        else:
            rows.append([*riding, op])
            riding = []
    return [*rows, riding] if riding else rows


def _row(ops: list[Op]) -> tuple[str, ...]:
    main = max(ops, key=lambda op: (op.kernel is not None, sum(op.flops.values())))
    names = main.name if len(ops) == 1 else f"{main.name} +{len(ops) - 1}"
    where = main.scope or main.line
    moved = dict.fromkeys(("weights", "cache", "activations"), 0)
    for op in ops:
        for access in (*op.reads, *op.writes):
            moved[access.kind] += op.count * access.bytes
    flops = sum(op.count * sum(op.flops.values()) for op in ops)
    return (
        names,
        where if len(where) <= 48 else "…" + where[-47:],
        str(main.count),
        f"{flops / 1e9:.4g}",
        *(f"{moved[kind] / 1e6:.4g}" for kind in ("weights", "cache", "activations")),
    )
