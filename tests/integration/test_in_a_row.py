"""One process survives a hundred of its threads being ended, one after the other, by each technique.

Every interpreter gets some; three get a hundred: the oldest, the newest that is linked as one whole, the newest debug build.
With ``THREADSURGEON_TEST_KILLS=100`` all get that many.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from tests.zoo.patient import KINDS, TECHNIQUES, patient
from tests.zoo.pythons import Python, found
from threadsurgeon.debugger.session import Session
from threadsurgeon.inventory import Target
from threadsurgeon.model.operations import Outcome
from threadsurgeon.surgery.addresses import make_victim
from threadsurgeon.surgery.cut_frames import cut, survey
from threadsurgeon.surgery.insist import insist
from threadsurgeon.surgery.ladder import Policy
from threadsurgeon.surgery.operation import Operation
from threadsurgeon.surgery.plan import Examination, examine
from threadsurgeon.surgery.technique import Applied, Effect

MANY, SOME = 100, 20
SECONDS = 10.0
# Until then the process still grows by itself: caches, arenas of its allocators, stacks of its first threads.
WARM_UP = 10
# What a kill may leave behind for ever. Measured were less than two; a debug build on a busy machine may round up.
MOST_KIB_PER_KILL = 40
TRIES = 50

pytestmark = [pytest.mark.usefixtures("gdb"), pytest.mark.timeout(300)]


def kills_for(python: Python) -> int:
    """Return how many this interpreter gets."""
    pythons = [python for python in found() if python.is_usual]
    whole = [python for python in pythons if python.may_inline]
    debug = [python for python in pythons if python.debug]
    usual = MANY if python in (pythons[0], *whole[-1:], *debug[-1:]) else SOME
    return int(os.environ.get("THREADSURGEON_TEST_KILLS", usual))


@pytest.fixture
def session() -> Iterator[Session]:
    """One gdb for a hundred: it, too, is to last."""
    with Session.start() as session:
        yield session


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_in_a_row(python: Python, technique: str, session: Session, record_property: Callable[[str, object], None]) -> None:
    """Each thread unwinds and can be joined; the others go on; the memory stays; at last the process ends in order."""
    kills = kills_for(python)
    end = {"cut": cut_thread, "insist": insist_on_thread}.get(technique, cancel_thread)
    resident, stops = [], []
    with patient(python) as process:
        for number in range(kills):
            tid = process.get_stuck(KINDS[technique])
            stops.append(end(session, process.pid, tid, technique))
            facts = process.join()
            resident.append(process.resident_kib())

            assert facts == {"joined": True, "free": True, "ticked": True, "tidied": True, "passed": False}, number
        process.process.finish()
    growth = (resident[-1] - resident[min(WARM_UP, kills) - 1]) / max(1, kills - WARM_UP)
    stop = sorted(stops)[kills // 2] * 1000
    record_property("kib_per_kill", round(growth, 1))
    record_property("median_stop_ms", round(stop, 2))
    print(f"{python}: {technique}: {kills} of {kills}, {growth:+.1f} KiB per kill, median stop {stop:.2f} ms")

    assert growth < MOST_KIB_PER_KILL


def cancel_thread(session: Session, pid: int, tid: int, technique: str) -> float:
    """End it as ``cancel`` does."""
    report = Operation(pid, tid, Policy(timeout_seconds=SECONDS)).run(session)
    assert (report.outcome, report.technique) == (Outcome.ENDED, technique), report
    return report.stopped_seconds


def cut_thread(session: Session, pid: int, tid: int, _technique: str) -> float:
    """Cut it, without trying the gentler ways first, as soon as there is something to cut."""
    stopped = 0.0
    for _ in range(TRIES):
        examination = look(pid, tid)
        site = survey(examination.target, examination.sighting.state.interpreter)
        applied: Applied = cut(session, make_victim(examination), site, SECONDS)
        stopped += applied.stopped_seconds
        if applied.effect is Effect.CUT:
            return stopped
    raise AssertionError(f"thread {tid} of process {pid} was not cut")


def insist_on_thread(session: Session, pid: int, tid: int, _technique: str) -> float:
    """Insist, without trying the gentler ways first."""
    examination = look(pid, tid)
    applied = insist(session, examination, make_victim(examination), SECONDS, gentle=1)
    assert applied.effect is Effect.DELIVERED, applied
    return applied.stopped_seconds


def look(pid: int, tid: int) -> Examination:
    """Look at the thread as an operation does first."""
    target = Target(pid)
    return examine(target, target.see(tid), "SystemExit")
