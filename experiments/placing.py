"""Which memory weights and cache live in, from one flag.

A policy (`on-chip`, `off-chip`, `fit`), the name of a memory (`hbm`), rules
(`layers[:20]/**=sram,**=hbm`, the first that matches wins), or a file of rules, one a line, where
`#` begins a comment. Left out, it is as the chip is usually used: from SRAM where what lies behind
it is a hundred times slower or nothing (Groq, Cerebras), else from the fastest memory off chip.
"""

import difflib
from pathlib import Path

import emu
from experiments.errors import ExperimentError

Rules = tuple[emu.Rule, ...]
_POLICIES = ("on-chip", "off-chip", "fit")
_FAR_SLOWER = 100.0


def rules_of(given: str | None, chip: emu.Chip) -> str | Rules:
    """What `emu.place` takes.

    Raises:
      ExperimentError: neither a policy, a memory, rules nor a readable file.
    """
    if given is None:
        return "on-chip" if runs_from_sram(chip) else "off-chip"
    if given in _POLICIES:
        return given
    memories = [memory.name for memory in chip.memories]
    if given in memories:
        return (emu.Rule("**", given),)
    if "=" in given:
        parts = [part for part in given.split(",") if part.strip()]
        return tuple(_rule(part, "--placement") for part in parts)
    if Path(given).is_file():
        return _of_file(Path(given))
    known = [*_POLICIES, *memories]
    near = difflib.get_close_matches(given, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"take one of {', '.join(known)},"
    raise ExperimentError(
        f"--placement: {given!r} is no policy, memory of {chip.name}, rule or file; {hint} "
        "or write pattern=memory"
    )


def runs_from_sram(chip: emu.Chip) -> bool:
    """Whether weights usually live on this chip: nothing near as fast is behind it."""
    near = [m for m in chip.memories if m.placement == "on-chip"]
    far = [m for m in chip.memories if m.placement == "off-chip"]
    if not near or not far:
        return bool(near)
    fastest = max(m.bandwidth_bytes_per_s.value for m in far)
    return bool(near[0].bandwidth_bytes_per_s.value > _FAR_SLOWER * fastest)


def _of_file(path: Path) -> Rules:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ExperimentError(f"{path}: not UTF-8 text at byte {error.start}") from error
    rules = []
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        if text:
            rules.append(_rule(text, f"{path}, line {number}"))
    if not rules:
        raise ExperimentError(f"{path}: no rules; write one a line, such as **=off-chip")
    return tuple(rules)


def _rule(text: str, where: str) -> emu.Rule:
    pattern, equals, memory = (part.strip() for part in text.rpartition("="))
    if not equals or not pattern or not memory:
        raise ExperimentError(f"{where}: {text.strip()!r} is no rule; write pattern=memory")
    try:
        return emu.Rule(pattern, memory)
    except emu.EmuError as error:
        raise ExperimentError(f"{where}: {error}") from error
