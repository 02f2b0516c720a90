"""A HumanEval run as an answer in words, a figure and a table."""

from collections.abc import Sequence

from emu.report import Figure, Panel, Series, Table
from experiments.decode_summary import Answer, Group, groups
from experiments.wording import figures, listed, mb, ms


def answer(answers: Sequence[Answer], model: str) -> tuple[str, ...]:
    """How long a token takes, in one sentence a placement."""
    found = groups(answers)
    sentences = []
    for placement in dict.fromkeys(g.placement for g in found):
        members = [g for g in found if g.placement == placement]
        times = [f"{ms(g.tpot_s)} ms in {g.dtype}" for g in members]
        first = [f"{ms(g.ttft_s)} ms" for g in members]
        sentences.append(
            f"One token of {model} takes {listed(times)} with its weights {_where(members)}; "
            f"the first one comes after {listed(first)}."
        )
    return tuple(sentences) or ("Nothing has been measured yet.",)


def figure(answers: Sequence[Answer], name: str = "humaneval") -> Figure:
    """Time to first token by prompt length, and time per token by the tokens in the cache."""
    found = groups(answers)
    ttft = tuple(
        Series(
            label=_label(g),
            x=tuple(float(a.prompt_tokens) for a in g.answers),
            y=tuple(a.ttft_s * 1e3 for a in g.answers),
            style="points",
        )
        for g in found
    )
    tpot = tuple(
        Series(
            label=_label(g),
            x=tuple(a.prompt_tokens + a.new_tokens / 2 for a in g.answers),
            y=tuple(a.tpot_s * 1e3 for a in g.answers),
            style="points",
        )
        for g in found
    )
    return Figure(
        name=name,
        title="HumanEval: how long a user waits",
        columns=2,
        panels=(
            Panel(title="Time to first token", x_label="prompt tokens", y_label="ms", series=ttft),
            Panel(
                title="Time per output token",
                x_label="tokens in the cache, mean",
                y_label="ms",
                series=tpot,
            ),
        ),
        note="One point a task, one request at a time. Prompts are padded to one of "
        "a few lengths, which is why the first token's time goes in steps.",
    )


def tables(answers: Sequence[Answer]) -> tuple[Table, ...]:
    """TTFT, ITL and TPOT by dtype and placement."""
    rows = tuple(
        (
            g.dtype,
            g.placement,
            mb(g.answers[0].weight_bytes),
            mb(g.answers[0].excess_bytes),
            str(len(g.answers)),
            ms(g.ttft_s),
            ms(g.itl_s),
            ms(g.tpot_s),
            figures(1 / g.tpot_s),
            _disturbed(g),
        )
        for g in groups(answers)
    )
    return (
        Table(
            title="HumanEval, one request at a time",
            columns=(
                "dtype",
                "placement",
                "MB",
                "MB over",
                "tasks",
                "TTFT ms",
                "ITL ms",
                "TPOT ms",
                "tokens/s",
                "disturbed",
            ),
            rows=rows,
            note="TTFT: time to first token; ITL: inter-token latency; TPOT: time per output token "
            "after the first; medians over tasks. MB over: bytes that "
            "the placement puts on chip beyond its capacity; they come from off chip all the same. "
            "disturbed: gaps during which other processes used the processor.",
        ),
        _spread_table(answers),
    )


def _spread_table(answers: Sequence[Answer]) -> Table:
    return Table(
        title="Latency of HumanEval's tokens, ms",
        columns=(
            "dtype",
            "placement",
            "what",
            "median",
            "p10",
            "p90",
            "p99",
            "p99 of all",
            "count",
        ),
        rows=tuple(
            (
                g.dtype,
                g.placement,
                name,
                *(ms(t) for t in (s.median_s, s.p10_s, s.p90_s, s.p99_s, s.p99_all_s)),
                str(s.count),
            )
            for g in groups(answers)
            for name, s in (("TTFT", g.ttft), ("ITL", g.itl))
        ),
        note="TTFT: over tasks, one sample each. ITL: medians over tasks of each one's median, p10 "
        "and p90 over its gaps; p99 and p99 of all are the worst task's. Disturbed samples are "
        "left out, unless all of them are, and count is without them; p99 of all has them too.",
    )


def _disturbed(group: Group) -> str:
    if not all(a.metered for a in group.answers):
        return "not metered"
    gaps = sum(a.gaps + 1 for a in group.answers)
    return f"{sum(a.disturbed for a in group.answers)} of {gaps}"


def _label(group: Group) -> str:
    return f"{group.dtype}, {group.placement}"


def _where(members: Sequence[Group]) -> str:
    first = members[0].answers[0]
    if members[0].placement == "off-chip":
        return f"in {first.off_chip}"
    if members[0].placement == "on-chip":
        over = any(g.answers[0].excess_bytes for g in members)
        return f"meant for {first.on_chip}" + (", which they overflow" if over else "")
    return f"placed as {members[0].placement!r} says"
