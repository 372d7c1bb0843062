"""The harder rungs of ``kill``: each is used only after the gentler ones failed and were seen to fail."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from threadsurgeon.debugger.session import Session
from threadsurgeon.errors import NoSuchProcess, NoSuchThread, Refused, UnsupportedPython
from threadsurgeon.inventory import Target
from threadsurgeon.linux.process import is_alive
from threadsurgeon.model.operations import Outcome
from threadsurgeon.surgery.addresses import make_victim
from threadsurgeon.surgery.builds import refuse_technique
from threadsurgeon.surgery.cut_frames import Site, cut, survey
from threadsurgeon.surgery.delivery import EFFECT_SECONDS, Record
from threadsurgeon.surgery.insist import insist
from threadsurgeon.surgery.ladder import RUNGS, Policy
from threadsurgeon.surgery.plan import Examination, examine, find_doing
from threadsurgeon.surgery.technique import Applied, Effect
from threadsurgeon.surgery.terminate import terminate
from threadsurgeon.surgery.verify import Verdict, Watch

logger = logging.getLogger(__name__)

# Code may catch what a cut raised, and C code may be entered again by code that was insisted on: both once more, not for ever.
ROUNDS = 2

Technique = Callable[[Session, Examination, float], Applied]


class Climb:
    """Climbs for one thread. ``obstacle`` says what ended the climb, if something did."""

    def __init__(self, session: Session, examination: Examination, policy: Policy, record: Record) -> None:
        self._session = session
        self._examination = examination
        self._policy = policy
        self._record = record
        self.obstacle: str | None = None

    @property
    def _target(self) -> Target:
        return self._examination.target

    def run(self, verdict: Verdict) -> Verdict:
        """Go on from what the gentle techniques came to, by what is seen."""
        for _ in range(ROUNDS):
            if verdict.outcome is None and self._is_in_c_code(verdict):
                verdict = self._use("cut", _cut, verdict)
            if verdict.outcome is Outcome.SURVIVED and self.obstacle is None:
                # What was cut once, and so agreed to, may be cut again where the thread goes back to it.
                may_cut = any(attempt.technique == "cut" for attempt in self._record.attempts)
                verdict = self._use("insist", _insist_and_cut if may_cut else _insist, verdict)
            if verdict.outcome not in (None, Outcome.SURVIVED) or self.obstacle is not None:
                break
        if self._policy.force and verdict.outcome in (None, Outcome.SURVIVED):
            verdict = self._use("terminate", _terminate, verdict)
        return verdict

    def _is_in_c_code(self, verdict: Verdict) -> bool:
        """Say whether cutting could help: not with a thread that merely waits for its turn."""
        try:
            return verdict.sighting is not None and not find_doing(self._target, verdict.sighting).is_waiting_for_its_turn
        except NoSuchThread:
            return False

    def _use(self, name: str, technique: Technique, verdict: Verdict) -> Verdict:
        """Apply one technique and look what came of it. What it refuses is what ends the climb."""
        try:
            refuse_technique(self._target, name)
        except Refused as error:  # nobody needs to be asked
            self.obstacle = f"{name} was refused: {error}"
            return verdict
        except NoSuchProcess:
            return Verdict(Outcome.TARGET_DIED, None, delivered=True)
        if not self._policy.confirm(RUNGS[name]):
            self.obstacle = f"{name} was not confirmed (to say yes beforehand: --yes)"
            return verdict
        logger.info("next: %s, since %s", name, RUNGS[name].when)
        self.obstacle = None
        began = time.monotonic()
        applied = None
        try:
            examination = self._examine_again()
            watch = Watch(self._target, examination.sighting, impatient=True)
            try:
                applied = technique(self._session, examination, self._policy.timeout_seconds)
            except (Refused, UnsupportedPython) as error:
                self.obstacle = "; ".join(filter(None, (f"{name} was refused: {error}", error.hint)))
                verdict = Verdict(verdict.outcome, watch.sight(), delivered=verdict.delivered)
            else:
                verdict = self._look(watch, applied)
                if verdict.outcome in (None, Outcome.SURVIVED):
                    self.obstacle = applied.obstacle
        except (NoSuchThread, NoSuchProcess):
            alive = is_alive(self._target.pid)
            verdict = Verdict(Outcome.ENDED if alive else Outcome.TARGET_DIED, None, delivered=True)
        self._record.note(name, verdict, began, applied)
        return verdict

    def _look(self, watch: Watch, applied: Applied) -> Verdict:
        if applied.effect is Effect.NO_CHECK:
            now = watch.sight()
            return Verdict(None, now, delivered=False) if now else Verdict(Outcome.ENDED, None, delivered=True)
        return watch.wait_for_effect(time.monotonic() + max(EFFECT_SECONDS, self._policy.timeout_seconds))

    def _examine_again(self) -> Examination:
        sighting = self._target.see(self._examination.sighting.thread.tid)
        return examine(self._target, sighting, self._examination.exception)


def _survey(examination: Examination) -> Site:
    return survey(examination.target, examination.sighting.state.interpreter)


def _cut(session: Session, examination: Examination, seconds: float) -> Applied:
    return cut(session, make_victim(examination), _survey(examination), seconds)


def _insist(session: Session, examination: Examination, seconds: float) -> Applied:
    return insist(session, examination, make_victim(examination), seconds)


def _insist_and_cut(session: Session, examination: Examination, seconds: float) -> Applied:
    return insist(session, examination, make_victim(examination), seconds, site=_survey(examination))


def _terminate(session: Session, examination: Examination, seconds: float) -> Applied:
    return terminate(session, examination, make_victim(examination), seconds)
