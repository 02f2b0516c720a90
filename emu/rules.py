"""Ordered rules over key paths: the first that matches decides.

The rules are total: a leaf (or a row of a stacked leaf) without a rule is an error, and so is a
rule that decides nothing, because it matches no leaf or because earlier rules took all that it
matches, since each makes a placement that nobody meant. Only a closing `**` may find nothing left:
it is there for what the rules before it forgot.
"""

import dataclasses
import difflib
from collections.abc import Iterable, Sequence

from emu.errors import EmuError
from emu.patterns import Match, Members, match, parse
from emu.work import Leaf


@dataclasses.dataclass(frozen=True)
class Rule:
    """Leaves whose key path matches `pattern` live in `memory`, a name or a class of memories."""

    pattern: str
    memory: str

    def __post_init__(self) -> None:
        parse(self.pattern)
        if not isinstance(self.memory, str) or not self.memory:
            raise EmuError(f"rule {self.pattern!r}: name a memory, 'on-chip' or 'off-chip'")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Share:
    """One leaf, or (`rows`) some of its leading axis, and the number of the rule it falls to."""

    leaf: Leaf
    rule: int
    rows: range | None = None


def ordered(rules: Iterable[Rule | Sequence[str]]) -> tuple[Rule, ...]:
    """The rules, given as `Rule`s or as (pattern, memory) pairs."""
    if isinstance(rules, Rule):
        raise EmuError(f"rules are a list, and {rules.pattern!r} is one of them: write [{rules!r}]")
    made = []
    for rule in rules:
        if not isinstance(rule, Rule) and (isinstance(rule, str) or len(rule) != 2):
            raise EmuError(f"a rule is a (pattern, memory) pair, not {rule!r}")
        made.append(rule if isinstance(rule, Rule) else Rule(*rule))
    return tuple(made)


def assign(rules: Sequence[Rule], leaves: Sequence[Leaf]) -> tuple[Share, ...]:
    """Each leaf's shares, in the leaves' order. Raises EmuError where the rules are not total."""
    members = Members(leaves)
    found = [[match(rule.pattern, leaf, members) for rule in rules] for leaf in leaves]
    _each_matches(rules, leaves, found)
    shares: list[Share] = []
    uncovered: list[str] = []
    for leaf, matches in zip(leaves, found, strict=True):
        taken, free = _shares(leaf, matches)
        shares += taken
        if free:
            whole = not taken or not leaf.shape
            uncovered.append(leaf.path if whole else f"{leaf.path}{_spans(free)}")
    if uncovered:
        more = f" and {len(uncovered) - 3} more" if len(uncovered) > 3 else ""
        raise EmuError(
            f"no rule covers {', '.join(uncovered[:3])}{more}: end the rules with "
            "('**', 'off-chip') to place all the rest"
        )
    _each_decides(rules, found, {share.rule for share in shares})
    return tuple(shares)


def nearest(name: str, names: Iterable[str]) -> str:
    """`; the nearest is …`, or what there is to choose from."""
    known = list(dict.fromkeys(names))
    if not known:
        return "; there is nothing to match"
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"; the nearest is {close[0]!r}"


def _each_matches(
    rules: Sequence[Rule], leaves: Sequence[Leaf], found: Sequence[Sequence[Match | None]]
) -> None:
    for at, rule in enumerate(rules):
        hits = [(leaf, m[at]) for leaf, m in zip(leaves, found, strict=True) if m[at] is not None]
        if not hits:
            raise EmuError(
                f"rule {rule.pattern!r} -> {rule.memory!r} matches no leaf"
                + nearest(rule.pattern, (leaf.path for leaf in leaves))
            )
        stacked = {leaf.shape[0]: leaf.path for leaf, m in hits if m and m.rows is not None}
        if len(stacked) > 1:
            listed = ", ".join(f"{path} has {count}" for count, path in stacked.items())
            raise EmuError(
                f"rule {rule.pattern!r} indexes leaves whose leading axes differ ({listed}): "
                "write a rule for each"
            )


def _each_decides(
    rules: Sequence[Rule], found: Sequence[Sequence[Match | None]], deciding: set[int]
) -> None:
    for at, rule in enumerate(rules):
        if at in deciding:
            continue
        before = [
            earlier
            for number, earlier in enumerate(rules[:at])
            if number in deciding
            and any(m[at] is not None and m[number] is not None for m in found)
        ]
        catches_all = rule.pattern.strip("/") == "**"
        if catches_all and at == len(rules) - 1 and all(b.pattern != rule.pattern for b in before):
            continue
        listed = ", ".join(f"{b.pattern!r} -> {b.memory!r}" for b in before[:3])
        more = f" and {len(before) - 3} more" if len(before) > 3 else ""
        raise EmuError(
            f"rule {rule.pattern!r} -> {rule.memory!r} decides nothing: all that it matches is "
            f"taken by {listed}{more} before it; the first match wins, so put the narrower rule "
            "first, or take one out"
        )


def _shares(leaf: Leaf, matches: Sequence[Match | None]) -> tuple[list[Share], list[range]]:
    """What each rule takes of the leaf, in the order of its rows, and the rows left over."""
    count = leaf.shape[0] if leaf.shape else 1
    free = [range(count)]
    taken: list[Share] = []
    for at, found in enumerate(matches):
        if found is None:
            continue
        if found.rows is None and not taken:
            return [Share(leaf=leaf, rule=at)], []
        wanted = range(count) if found.rows is None else found.rows
        overlaps = (range(max(run.start, wanted.start), min(run.stop, wanted.stop)) for run in free)
        taken += [Share(leaf=leaf, rule=at, rows=both) for both in overlaps if both]
        ends = [
            (
                range(run.start, min(run.stop, wanted.start)),
                range(max(run.start, wanted.stop), run.stop),
            )
            for run in free
        ]
        free = [run for pair in ends for run in pair if run]
        if not free:
            break
    taken.sort(key=lambda share: share.rows.start if share.rows else 0)
    return taken, free


def _spans(runs: Iterable[range]) -> str:
    return "".join(f"[{run.start}:{run.stop}]" for run in runs)
