"""The procedure: look, plan, apply, look again, and go on or stop by what was seen."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

from threadsurgeon.debugger.session import Session
from threadsurgeon.errors import NativeThread, NoSuchProcess, NoSuchThread, Refused
from threadsurgeon.inventory import Target
from threadsurgeon.linux.process import is_alive
from threadsurgeon.model import Attempt, Frame, Outcome, Plan, Report
from threadsurgeon.surgery.addresses import find_exception, make_victim
from threadsurgeon.surgery.async_exception import raise_async, withdraw
from threadsurgeon.surgery.interrupt import interrupt
from threadsurgeon.surgery.plan import Doing, Examination, examine, find_doing, make_plan
from threadsurgeon.surgery.technique import Effect, Victim
from threadsurgeon.surgery.verify import Verdict, Watch, check_life

logger = logging.getLogger(__name__)

# Of an operation's time, what is kept for seeing the effect of an exception that was raised late.
EFFECT_SECONDS = 1.0
# `kill` repeats at most this often within its time: code that swallows again and again is not to be flooded.
MOST_ATTEMPTS = 20


@dataclass(slots=True)
class _Record:
    """What was done so far."""

    attempts: list[Attempt] = field(default_factory=list)
    stopped_seconds: float = 0.0
    hits: list[str] = field(default_factory=list)


class Operation:
    """One operation on one thread: ``cancel`` delivers one exception, ``kill`` as many as its time allows."""

    def __init__(
        self,
        pid: int,
        tid: int,
        *,
        exception: str | None = None,
        timeout_seconds: float = 5.0,
        repeat: bool = False,
        leave_pending: bool = False,
    ) -> None:
        """Look at the thread and plan. Nothing is touched yet.

        Raises:
            ThreadsurgeonError: it cannot be done, or is refused; the reason says why.
        """
        self._began = time.monotonic()
        self._timeout_seconds = timeout_seconds
        self._repeat = repeat
        self._leave_pending = leave_pending
        self._record = _Record()
        self.target = Target(pid)
        try:
            self.before = self.target.see(tid)
        except NativeThread as error:
            raise Refused(str(error), hint=error.hint) from None
        self.examination = examine(self.target, self.before, exception)
        find_exception(self.target, self.examination.exception)

    @property
    def plan(self) -> Plan:
        """What would be done."""
        return make_plan(self.examination)

    def run(self, session: Session) -> Report:
        """Do it, and say what was seen afterwards.

        Raises:
            ThreadsurgeonError: it could not be done. Nothing is left behind in the target.
        """
        session.wait_until_ready()
        deadline = time.monotonic() + self._timeout_seconds
        examination = self.examination
        while True:
            verdict = self._try_once(session, examination, deadline)
            again = (
                self._repeat
                and verdict.outcome is Outcome.SURVIVED
                and verdict.sighting is not None
                and time.monotonic() < deadline
                and len(self._record.attempts) < MOST_ATTEMPTS
            )
            if not again:
                return self._report(verdict)
            assert verdict.sighting is not None
            examination = examine(self.target, self.target.see(self.before.thread.tid), examination.exception)

    def _try_once(self, session: Session, examination: Examination, deadline: float) -> Verdict:
        """Deliver one exception by the gentlest technique that reaches the thread."""
        victim = make_victim(examination)
        watch = Watch(self.target, examination.sighting, impatient=self._repeat)
        verdict = Verdict(None, examination.sighting, delivered=False)
        pending = False
        try:
            if "raise" in examination.techniques:
                verdict = self._raise(session, victim, watch, deadline)
                pending = not verdict.delivered
            if not verdict.delivered:
                verdict = self._interrupt(session, victim, watch, deadline)
                pending = not verdict.delivered
        finally:
            if pending and not self._leave_pending:
                verdict = self._withdraw(session, victim, watch, verdict)
        return verdict

    def _raise(self, session: Session, victim: Victim, watch: Watch, deadline: float) -> Verdict:
        began = time.monotonic()
        applied = raise_async(session, victim)
        self._record.stopped_seconds += applied.stopped_seconds
        verdict = watch.wait_for_delivery(deadline - EFFECT_SECONDS)
        if verdict.delivered and verdict.outcome is None:
            verdict = watch.wait_for_effect(max(deadline, time.monotonic() + EFFECT_SECONDS))
        self._note("raise", verdict, began)
        return verdict

    def _interrupt(self, session: Session, victim: Victim, watch: Watch, deadline: float) -> Verdict:
        began = time.monotonic()
        try:
            applied = interrupt(
                session, victim, max(0.1, deadline - EFFECT_SECONDS - began), also_pending=True
            )
        except NoSuchThread:
            # It ended while we reached for it. Whether by our exception or by itself, it is gone.
            sighting = watch.sight() if is_alive(self.target.pid) else None
            if sighting is not None:
                raise
            verdict = Verdict(Outcome.ENDED if is_alive(self.target.pid) else Outcome.TARGET_DIED, None, delivered=True)
            self._note("interrupt", verdict, began)
            return verdict
        self._record.stopped_seconds += applied.stopped_seconds
        if applied.hit:
            self._record.hits.append(applied.hit)
        if applied.effect is Effect.NO_CHECK:
            verdict = Verdict(None, watch.sight(), delivered=False)
            if verdict.sighting is None:
                verdict = Verdict(Outcome.ENDED, None, delivered=True)
        else:
            verdict = watch.wait_for_effect(max(deadline, time.monotonic() + EFFECT_SECONDS))
        self._note("interrupt", verdict, began)
        return verdict

    def _withdraw(self, session: Session, victim: Victim, watch: Watch, verdict: Verdict) -> Verdict:
        """Take a pending exception back. It may have been raised in the last moment: then the effect counts."""
        try:
            withdrawn = withdraw(session, victim)
        except (NoSuchThread, NoSuchProcess):
            withdrawn = False
        if withdrawn:
            return verdict
        return watch.wait_for_effect(time.monotonic() + EFFECT_SECONDS)

    def _note(self, technique: str, verdict: Verdict, began: float) -> None:
        outcome = verdict.outcome.value if verdict.outcome else "not noticed"
        self._record.attempts.append(Attempt(technique, outcome, round(time.monotonic() - began, 4)))

    def _report(self, verdict: Verdict) -> Report:
        outcome = verdict.outcome or Outcome.PENDING
        life = check_life(self.target, self.before.state.interpreter)
        if not life.alive:
            outcome = Outcome.TARGET_DIED
        record = self._record
        decided = [attempt for attempt in record.attempts if attempt.outcome != "not noticed"]
        thread = self.before.thread
        assert thread.ident is not None
        after = verdict.sighting.thread.frames if verdict.sighting is not None else ()
        return Report(
            pid=self.target.pid,
            tid=thread.tid,
            ident=thread.ident,
            name=thread.name,
            outcome=outcome,
            technique=decided[-1].technique if decided else None,
            exception=self.examination.exception,
            attempts=tuple(record.attempts),
            stopped_seconds=round(record.stopped_seconds, 6),
            seconds=round(time.monotonic() - self._began, 4),
            process_alive=life.alive,
            stack_before=thread.frames,
            stack_after=after,
            detail=self._describe(outcome, verdict, after),
            evidence=life.evidence,
            warnings=self.examination.warnings,
        )

    def _describe(self, outcome: Outcome, verdict: Verdict, after: tuple[Frame, ...]) -> str:
        exception = self.examination.exception
        was_in = str(self.before.thread.frames[0]) if self.before.thread.frames else "no Python frame"
        is_in = str(after[0]) if after else "no Python frame"
        if outcome is Outcome.ENDED:
            return f"the thread is gone; it was in {was_in}"
        if outcome is Outcome.UNWOUND:
            return f"the call in {was_in} is gone; the thread lives on in {is_in}"
        if outcome is Outcome.SURVIVED:
            return f"{exception} was raised, and code caught it; the thread is in {is_in}"
        if outcome is Outcome.TARGET_DIED:
            return "the process ended during the operation"
        left = "is still pending, as asked" if self._leave_pending else "was withdrawn"
        return f"{exception} was not noticed within {self._timeout_seconds:g} s and {left}; {self._sits_in(verdict, is_in)}"

    def _sits_in(self, verdict: Verdict, is_in: str) -> str:
        if verdict.sighting is None:
            return "the thread is gone now"
        try:
            doing = find_doing(self.target, verdict.sighting)
        except NoSuchThread:
            return "the thread is gone now"
        if doing is Doing.WAITING_FOR_GIL:
            holder = self.target.find_gil_holder()
            who = f", which thread {holder.tid} holds" if holder else ""
            return f"the thread waits for the GIL{who}, and is in {is_in}"
        if doing is Doing.IN_SYSTEM_CALL:
            return f"the thread waits in a system call of C code that does not check for signals, called from {is_in}"
        return f"the thread runs C code that does not check for signals, called from {is_in}"

