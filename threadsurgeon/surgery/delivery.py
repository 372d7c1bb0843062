"""Deliver one exception by the gentlest technique that reaches the thread: raise, then interrupt; or take it back."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

from threadsurgeon.debugger.session import Session
from threadsurgeon.errors import NoSuchProcess, NoSuchThread
from threadsurgeon.linux.process import is_alive
from threadsurgeon.model.operations import Attempt, Outcome
from threadsurgeon.model.threads import Frame
from threadsurgeon.surgery.addresses import make_victim
from threadsurgeon.surgery.async_exception import raise_async, withdraw, withdraw_after_failure
from threadsurgeon.surgery.interrupt import interrupt
from threadsurgeon.surgery.plan import Examination
from threadsurgeon.surgery.technique import Applied, Effect
from threadsurgeon.surgery.verify import Verdict, Watch

logger = logging.getLogger(__name__)

# Of an operation's time, what is kept for seeing the effect of an exception that was raised late.
EFFECT_SECONDS = 1.0
NOT_NOTICED = "not noticed"


@dataclass(slots=True)
class Record:
    """What was done to the thread so far."""

    attempts: list[Attempt] = field(default_factory=list)
    stopped_seconds: float = 0.0
    skipped: list[Frame] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)

    def note(self, technique: str, verdict: Verdict, began: float, applied: Applied | None = None) -> None:
        """Add an attempt that began at that monotonic time."""
        outcome = verdict.outcome.value if verdict.outcome else NOT_NOTICED
        seconds = time.monotonic() - began
        self.attempts.append(Attempt(technique, outcome, round(seconds, 4)))
        logger.info("%s: %s after %.3f s", technique, outcome, seconds)
        if applied is not None:
            self.stopped_seconds += applied.stopped_seconds
            self.skipped += applied.skipped
            self.cut += applied.cut

    @property
    def technique(self) -> str | None:
        """The technique that decided the outcome."""
        decided = [attempt for attempt in self.attempts if attempt.outcome != NOT_NOTICED]
        return decided[-1].technique if decided else None


class Delivery:
    """The delivery of one exception to one thread."""

    def __init__(self, session: Session, examination: Examination, record: Record, *, impatient: bool) -> None:
        self._session = session
        self._examination = examination
        self._record = record
        self.victim = make_victim(examination)
        self.watch = Watch(examination.target, examination.sighting, impatient=impatient)

    def run(self, deadline: float, *, leave_pending: bool = False) -> Verdict:
        """Deliver until the deadline (monotonic). What was not noticed until then is taken back.

        Raises:
            ThreadsurgeonError: it could not be done. The exception is not left pending, here and on Ctrl-C.
        """
        try:
            verdict = Verdict(None, self._examination.sighting, delivered=False)
            if "raise" in self._examination.techniques:
                verdict = self._raise(deadline)
            if not verdict.delivered:
                verdict = self._interrupt(deadline)
            if not verdict.delivered and not leave_pending:
                verdict = self._withdraw(verdict)
        except BaseException:
            withdraw_after_failure(self.victim)
            raise
        return verdict

    def _raise(self, deadline: float) -> Verdict:
        began = time.monotonic()
        applied = raise_async(self._session, self.victim)
        verdict = self.watch.wait_for_delivery(deadline - EFFECT_SECONDS)
        if verdict.delivered and verdict.outcome is None:
            verdict = self._wait_for_effect(deadline)
        self._record.note("raise", verdict, began, applied)
        return verdict

    def _interrupt(self, deadline: float) -> Verdict:
        began = time.monotonic()
        applied = None
        try:
            applied = interrupt(
                self._session, self.victim, max(0.1, deadline - EFFECT_SECONDS - began), also_pending=True
            )
        except NoSuchThread:
            verdict = self._look_for_end()
            if verdict is None:
                raise
        else:
            if applied.effect is Effect.NO_CHECK:
                verdict = self._look_for_end() or Verdict(None, self.watch.sight(), delivered=False)
            else:
                verdict = self._wait_for_effect(deadline)
        self._record.note("interrupt", verdict, began, applied)
        return verdict

    def _look_for_end(self) -> Verdict | None:
        """Say whether the thread is gone, by our exception or by itself; None while it lives."""
        if not is_alive(self._examination.target.pid):
            return Verdict(Outcome.TARGET_DIED, None, delivered=True)
        return Verdict(Outcome.ENDED, None, delivered=True) if self.watch.sight() is None else None

    def _wait_for_effect(self, deadline: float) -> Verdict:
        return self.watch.wait_for_effect(max(deadline, time.monotonic() + EFFECT_SECONDS))

    def _withdraw(self, verdict: Verdict) -> Verdict:
        """Take a pending exception back. It may have been raised in the last moment: then the effect counts."""
        try:
            withdrawn = withdraw(self._session, self.victim)
        except (NoSuchThread, NoSuchProcess):
            withdrawn = False
        return verdict if withdrawn else self._wait_for_effect(time.monotonic())
