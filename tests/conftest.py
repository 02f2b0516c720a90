"""What was skipped for want of hardware or of a tool is counted and named at the end."""

import pytest

NEEDS = "needs "  # how such a skip's reason begins


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each test that this machine cannot run, with what it lacks."""
    lacking = [
        (report.nodeid, reason)
        for report in terminalreporter.stats.get("skipped", [])
        if NEEDS in (reason := _reason(report))
    ]
    if lacking:
        terminalreporter.section("skipped for want of hardware or tools")
        for nodeid, reason in lacking:
            terminalreporter.line(f"{nodeid}: {reason}")
        terminalreporter.line(f"{len(lacking)} skipped for want of hardware or tools")


def _reason(report: pytest.TestReport) -> str:
    where = report.longrepr
    text = str(where[2]) if isinstance(where, tuple) else str(where)
    return text.removeprefix("Skipped: ")
