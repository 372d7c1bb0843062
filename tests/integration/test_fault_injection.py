"""A few of the runs of ``make fault-injection``: gdb or we are killed at random moments, and no target is harmed."""

from __future__ import annotations

import pytest

from tools.fault_injection import plan, representatives, summarise, try_all

RUNS, SEED, JOBS = 40, 7, 2
# See Result.at_breakpoint: 2 of 130 on a busy machine.
MOST_AT_BREAKPOINT = 2

pytestmark = [pytest.mark.usefixtures("gdb"), pytest.mark.timeout(300)]


def test_targets_survive() -> None:
    """Whoever is killed, and whenever: the target lives on, and its thread passes every place of a breakpoint."""
    pythons = representatives()
    assert pythons
    results = try_all(plan(RUNS, SEED, pythons), JOBS)
    print(summarise(results))

    harmed = [result for result in results if result.harm and not result.at_breakpoint]
    assert [f"{result.case}; {result.phase}: {result.harm}" for result in harmed] == []
    assert sum(result.at_breakpoint for result in results) <= MOST_AT_BREAKPOINT
