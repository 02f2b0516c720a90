"""A HumanEval run as an answer in words, a figure and a table."""

from collections.abc import Sequence

from emu.report import Figure, Panel, Series, Table
from experiments.decode_summary import Answer, Group, groups
from experiments.wording import figures, listed, mb, ms

_WIDENS = (
    "XLA:CPU writes the weights out in float32 before the products of a prompt's tokens, and that "
    "is most of what makes it slower than in float32"
)


def answer(answers: Sequence[Answer], model: str) -> tuple[str, ...]:
    """How long a token takes, in one sentence a placement, and why the first one is slow."""
    found = groups(answers)
    sentences = []
    for placement in dict.fromkeys(g.placement for g in found):
        members = [g for g in found if g.placement == placement]
        times = [f"{ms(g.tpot_s)} ms in {g.dtype}" for g in members]
        first = [f"{ms(g.ttft.median_s)} ms" for g in members]
        sentences.append(
            f"One token of {model} takes {listed(times)} with its weights {_where(members)}; "
            f"the first one comes after {listed(first)}."
        )
    if widening := listed(list(dict.fromkeys(g.dtype for g in found if g.widens_first))):
        sentences.append(f"About the first token in {widening}: {_WIDENS}.")
    return tuple(sentences) or ("Nothing has been measured yet.",)


def figure(answers: Sequence[Answer], name: str = "humaneval") -> Figure:
    """Time to first token by prompt length, and time per token by the tokens in the cache."""
    found = groups(answers)
    ttft = tuple(
        Series(
            label=f"{g.dtype}, {g.label}",
            x=tuple(float(a.prompt_tokens) for a in g.answers),
            y=tuple(a.ttft_s * 1e3 for a in g.answers),
            style="points",
        )
        for g in found
    )
    tpot = tuple(
        Series(
            label=f"{g.dtype}, {g.label}",
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
        "a few lengths, which is why the first token's time goes in steps."
        + (f" In dtypes below float32 {_WIDENS}." if any(g.widens_first for g in found) else ""),
    )


def tables(answers: Sequence[Answer]) -> tuple[Table, ...]:
    """TTFT, ITL and TPOT by dtype and placement."""
    found = groups(answers)
    rows = tuple(
        (
            g.dtype,
            g.label,
            mb(g.answers[0].weight_bytes),
            str(len(g.answers)),
            ms(g.ttft.median_s) + (" w" if g.widens_first else ""),
            ms(g.itl.median_s),
            ms(g.tpot_s),
            figures(1 / g.tpot_s),
            _disturbed(g),
        )
        for g in found
    )
    widens = any(g.widens_first for g in found)
    return (
        Table(
            title="HumanEval, one request at a time",
            columns=(
                "dtype",
                "placement",
                "MB",
                "tasks",
                "TTFT ms",
                "ITL ms",
                "TPOT ms",
                "tokens/s",
                "disturbed",
            ),
            rows=rows,
            note="TTFT: time to first token, median over tasks; ITL: inter-token latency, median "
            "over the gaps of all tasks; TPOT: time per output token after the first, median over "
            "tasks. "
            + (f"w: {_WIDENS}. " if widens else "")
            + "MB over capacity: what the placement puts on chip beyond what that memory holds, "
            "which comes from off chip all the same. disturbed: gaps during which other processes "
            "used the processor.",
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
                g.label,
                name,
                *(ms(t) for t in (s.median_s, s.p10_s, s.p90_s, s.p99_s, s.p99_all_s)),
                str(s.count),
            )
            for g in groups(answers)
            for name, s in (("TTFT", g.ttft), ("ITL", g.itl))
        ),
        note="TTFT: over tasks, one sample each. ITL: over the gaps between the tokens of all "
        "tasks together. Disturbed samples are left out, unless all of them are, and count is "
        "without them; p99 of all has them too.",
    )


def _disturbed(group: Group) -> str:
    if not all(a.metered for a in group.answers):
        return "not metered"
    gaps = sum(len(a.gaps_s) + 1 for a in group.answers)
    return f"{sum(a.disturbed for a in group.answers)} of {gaps}"


def _where(members: Sequence[Group]) -> str:
    first = members[0].answers[0]
    if members[0].placement == "off-chip":
        return f"in {first.off_chip}"
    over = [f"{mb(g.answers[0].excess_bytes)} MB" for g in members]
    what = f"where the {members[0].placement} policy puts them"
    if members[0].placement == "on-chip":
        what = f"meant for {first.on_chip}"
    if any(g.answers[0].excess_bytes for g in members):
        what += f", whose capacity they exceed by {listed(over)}"
    return what
