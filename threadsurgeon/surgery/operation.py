"""The procedure: look, plan, apply, look again, and go on or stop by what was seen."""

from __future__ import annotations

import time

from threadsurgeon.debugger.session import Session
from threadsurgeon.errors import NativeThread, NoSuchThread, Refused
from threadsurgeon.inventory import Target
from threadsurgeon.model.operations import Outcome, Plan, Report
from threadsurgeon.model.threads import Frame
from threadsurgeon.surgery.addresses import find_exception
from threadsurgeon.surgery.climb import Climb
from threadsurgeon.surgery.delivery import EFFECT_SECONDS, Delivery, Record
from threadsurgeon.surgery.ladder import Policy
from threadsurgeon.surgery.main_thread import send_interrupt
from threadsurgeon.surgery.native import NativeOperation, is_native
from threadsurgeon.surgery.plan import Doing, examine, find_doing, is_importing, make_plan, refuse_shutdown
from threadsurgeon.surgery.verify import Verdict, Watch, check_life

# `kill` repeats at most this often within its time: code that swallows again and again is not to be flooded.
MOST_ATTEMPTS = 20
DEFAULT = Policy()


class Operation:
    """One operation on one thread: ``cancel`` delivers one exception, ``kill`` as many as its time allows."""

    def __init__(self, pid: int, tid: int, policy: Policy = DEFAULT) -> None:
        """Look at the thread and plan. Nothing is touched yet.

        Raises:
            ThreadsurgeonError: it cannot be done, or is refused; the reason says why.
        """
        self._began = time.monotonic()
        self._policy = policy
        self._record = Record()
        self._obstacle: str | None = None
        self.target = Target(pid)
        try:
            self.before = self.target.see(tid)
        except NativeThread as error:
            refuse_shutdown(self.target)  # it takes the Python state of daemon threads away first
            hint = f"to end it without unwinding, where it waits in a system call: threadsurgeon kill --force {tid}"
            raise Refused(str(error), hint=hint) from None
        self.examination = examine(self.target, self.before, policy.exception, allow_main=policy.allow_main)
        if policy.climb and not policy.allow_import and is_importing(self.before.thread):
            raise Refused(
                f"thread {tid} is inside an import: to kill it there leaves modules half made",
                hint="to let it notice an exception: threadsurgeon cancel; to kill it all the same: --in-import",
            )
        find_exception(self.target, self.examination.exception)

    @property
    def plan(self) -> Plan:
        """What would be done."""
        return make_plan(self.examination, self._policy)

    def run(self, session: Session) -> Report:
        """Do it, and say what was seen afterwards.

        Raises:
            ThreadsurgeonError: it could not be done. Nothing is left behind in the target.
        """
        if self.before.thread.main:
            return self._report(self._signal())
        session.wait_until_ready()
        verdict = self._deliver(session, time.monotonic() + self._policy.timeout_seconds)
        if self._policy.climb and verdict.outcome in (None, Outcome.SURVIVED):
            climb = Climb(session, self.examination, self._policy, self._record)
            verdict = climb.run(verdict)
            self._obstacle = climb.obstacle
        return self._report(verdict)

    def _signal(self) -> Verdict:
        """Interrupt the main thread. A signal cannot be taken back."""
        began = time.monotonic()
        watch = Watch(self.target, self.before)
        send_interrupt(self.target)
        verdict = watch.wait_for_effect(began + self._policy.timeout_seconds)
        self._record.note("signal", verdict, began)
        return verdict

    def _deliver(self, session: Session, deadline: float) -> Verdict:
        """Deliver the exception, again and again where that is wanted and code catches it."""
        examination = self.examination
        while True:
            delivery = Delivery(session, examination, self._record, impatient=self._policy.climb)
            verdict = delivery.run(deadline, leave_pending=self._policy.leave_pending)
            caught = verdict.outcome is Outcome.SURVIVED and verdict.sighting is not None
            if not (self._policy.climb and caught and time.monotonic() < deadline):
                return verdict
            if len(self._record.attempts) >= MOST_ATTEMPTS:
                return verdict
            try:
                examination = examine(self.target, self.target.see(self.before.thread.tid), examination.exception)
            except NoSuchThread:  # it is on its way out after all, and may have given up its Python state already
                return delivery.watch.wait_for_effect(time.monotonic() + EFFECT_SECONDS)

    def _report(self, verdict: Verdict) -> Report:
        outcome = verdict.outcome or Outcome.PENDING
        life = check_life(self.target, self.before.state.interpreter)
        if not life.alive:
            outcome = Outcome.TARGET_DIED
        thread = self.before.thread
        assert thread.ident is not None
        after = verdict.sighting.thread.frames if verdict.sighting is not None else ()
        return Report(
            pid=self.target.pid,
            tid=thread.tid,
            ident=thread.ident,
            name=thread.name,
            outcome=outcome,
            technique=self._record.technique,
            exception=self.examination.exception,
            attempts=tuple(self._record.attempts),
            stopped_seconds=round(self._record.stopped_seconds, 6),
            seconds=round(time.monotonic() - self._began, 4),
            process_alive=life.alive,
            stack_before=thread.frames,
            stack_after=after,
            detail="; ".join(filter(None, (self._describe(outcome, verdict, after), self._obstacle))),
            evidence=life.evidence,
            warnings=self.examination.warnings,
            skipped=tuple(self._record.skipped),
            cut=tuple(self._record.cut),
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
            waits = self._find_what_it_waits_for(verdict, is_in)
            return f"{exception} was raised, and {waits or f'code caught it; the thread is in {is_in}'}"
        if outcome is Outcome.TARGET_DIED:
            return "the process ended during the operation"
        left = "was withdrawn"
        if self.before.thread.main:
            left = "cannot be taken back"
        elif self._policy.leave_pending:
            left = "is still pending, as asked"
        seconds = self._policy.timeout_seconds
        return f"{exception} was not noticed within {seconds:g} s and {left}; {self._sits_in(verdict, is_in)}"

    def _sits_in(self, verdict: Verdict, is_in: str) -> str:
        waits = self._find_what_it_waits_for(verdict, is_in)
        if waits:
            return waits
        doing = self._find_doing(verdict)
        if doing is None:
            return "the thread is gone now"
        does = "waits in a system call of" if doing is Doing.IN_SYSTEM_CALL else "runs"
        return f"the thread {does} C code that does not check for signals, called from {is_in}"

    def _find_what_it_waits_for(self, verdict: Verdict, is_in: str) -> str | None:
        doing = self._find_doing(verdict)
        if doing is Doing.WAITING_FOR_GIL:
            holder = self.target.find_gil_holder()
            who = f", which thread {holder.tid} holds" if holder else ""
            return f"the thread waits for the GIL{who}, and is in {is_in}"
        if doing is Doing.WAITING_FOR_COLLECTOR:
            return f"the thread waits for the garbage collector, and is in {is_in}"
        return None

    def _find_doing(self, verdict: Verdict) -> Doing | None:
        try:
            return find_doing(self.target, verdict.sighting) if verdict.sighting is not None else None
        except NoSuchThread:
            return None


def prepare(pid: int, tid: int, policy: Policy = DEFAULT) -> Operation | NativeOperation:
    """Look at the thread and plan the operation that suits it; errors as ``Operation``."""
    if policy.force:
        target = Target(pid)
        if is_native(target, tid):
            return NativeOperation(target, tid, policy)
    return Operation(pid, tid, policy)
