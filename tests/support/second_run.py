"""For the run of what failed in the run before: names the tests that passed this time.

A test that passes only the second time has a defect, or shows one::

    python -m pytest --last-failed -p tests.support.second_run
"""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    stats = terminalreporter.stats
    failed = {report.nodeid for kind in ("failed", "error") for report in stats.get(kind, [])}
    passed = [report.nodeid for report in stats.get("passed", []) if report.nodeid not in failed]
    if passed:
        terminalreporter.section("passed only the second time: " + str(len(passed)))
        for name in passed:
            terminalreporter.line(name)
