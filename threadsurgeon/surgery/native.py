"""``kill --force`` on a thread without Python state: Python has nothing to unwind there, it ends where it waits."""

from __future__ import annotations

import time

from threadsurgeon.debugger.session import Session
from threadsurgeon.errors import NativeThread, NoSuchThread, Refused
from threadsurgeon.inventory import Target
from threadsurgeon.linux.process import is_alive, read_task
from threadsurgeon.model.operations import Attempt, Outcome, Plan, Report
from threadsurgeon.surgery.builds import refuse_musl
from threadsurgeon.surgery.ladder import RUNGS, Policy
from threadsurgeon.surgery.plan import refuse_shutdown
from threadsurgeon.surgery.terminate import terminate_native
from threadsurgeon.surgery.verify import check_life_of_process

RUNG = RUNGS["terminate"]
POLL_SECONDS = 0.005


def is_native(target: Target, tid: int) -> bool:
    """Say whether the thread exists and has no Python state.

    Raises:
        NoSuchThread: it does not exist.
    """
    try:
        target.see(tid)
    except NativeThread:
        return True
    return False


class NativeOperation:
    """One operation on one native thread."""

    def __init__(self, target: Target, tid: int, policy: Policy) -> None:
        """Look at the thread. Nothing is touched yet.

        Raises:
            Refused: the process ends anyway, or its C library does not allow it.
        """
        self._began = time.monotonic()
        refuse_shutdown(target)
        refuse_musl(target, RUNG.technique)
        self.target = target
        self._policy = policy
        self._task = read_task(target.pid, tid)

    @property
    def plan(self) -> Plan:
        """What would be done."""
        return Plan(
            pid=self.target.pid,
            tid=self._task.tid,
            ident=None,
            name=self._task.native_name,
            exception="",
            techniques=(RUNG.technique,),
            doing="a native thread, without Python state",
            reason="Python has nothing to unwind in it: it ends where it waits in a system call",
            leaves_behind=RUNG.leaves_behind,
            stack=(),
            rungs=(RUNG,),
        )

    def run(self, session: Session) -> Report:
        """End the thread, and say what was seen afterwards.

        Raises:
            Refused: it never was at a place where it could be ended, or that was not confirmed.
        """
        if not self._policy.confirm(RUNG):
            raise Refused(f"{RUNG.technique} was not confirmed", hint="to say yes beforehand: --yes")
        session.wait_until_ready()
        tid, began = self._task.tid, time.monotonic()
        applied = terminate_native(session, self.target, tid, self._policy.timeout_seconds)
        outcome = self._watch(time.monotonic() + self._policy.timeout_seconds)
        life = check_life_of_process(self.target)
        return Report(
            pid=self.target.pid,
            tid=tid,
            ident=None,
            name=self._task.native_name,
            outcome=outcome if life.alive else Outcome.TARGET_DIED,
            technique=RUNG.technique,
            exception="",
            attempts=(Attempt(RUNG.technique, outcome.value, round(time.monotonic() - began, 4)),),
            stopped_seconds=round(applied.stopped_seconds, 6),
            seconds=round(time.monotonic() - self._began, 4),
            process_alive=life.alive,
            stack_before=(),
            stack_after=(),
            detail="the native thread is gone" if outcome is Outcome.ENDED else "the native thread is still there",
            evidence=life.evidence,
        )

    def _watch(self, deadline: float) -> Outcome:
        while is_alive(self.target.pid):
            try:
                if read_task(self.target.pid, self._task.tid).start_time != self._task.start_time:
                    return Outcome.ENDED
            except NoSuchThread:
                return Outcome.ENDED
            if time.monotonic() >= deadline:
                return Outcome.SURVIVED
            time.sleep(POLL_SECONDS)
        return Outcome.TARGET_DIED
