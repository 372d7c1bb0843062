"""What really happened to the thread, seen from outside: the judge never looks through the tool that acted."""

from __future__ import annotations

import time
from dataclasses import dataclass

from threadsurgeon.cpython.threads import Interpreter, read_gil
from threadsurgeon.errors import NoSuchProcess, NoSuchThread
from threadsurgeon.inventory import Sighting, Target
from threadsurgeon.linux.memory import BadAddress
from threadsurgeon.linux.process import is_alive, read_cpu_time, read_status, read_task
from threadsurgeon.model.operations import Outcome
from threadsurgeon.surgery.plan import Doing, find_doing

FIRST_POLL_SECONDS, LONGEST_POLL_SECONDS = 0.0005, 0.02
# A thread that sits this long in the very same stack as before the operation has swallowed the exception.
SETTLED_SECONDS = 0.3
SETTLED_ELSEWHERE_SECONDS = 1.0
# A thread that ran this long without noticing a pending exception is in C code that does not look for one.
UNNOTICED_CPU_SECONDS = 0.03
# Ten switch intervals (sys.getswitchinterval): a GIL that another thread waits for changes hands within it.
GIL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Verdict:
    """``outcome`` None: nothing decided in the time. ``sighting`` None: the thread is gone."""

    outcome: Outcome | None
    sighting: Sighting | None
    delivered: bool
    stuck_in_c: bool = False


class Watch:
    """Watches one thread from before the operation on."""

    def __init__(self, target: Target, before: Sighting, *, impatient: bool = False) -> None:
        """Remember how the thread was.

        ``impatient``: a thread that sits somewhere else for a while has swallowed the exception, too. Otherwise it is given
        all the time there is, to tidy up in a ``finally`` block.
        """
        self.target = target
        self.before = before
        self._impatient = impatient
        self._work_item = self._find_work_item(before)
        self._poll = FIRST_POLL_SECONDS

    def sight(self) -> Sighting | None:
        """Return the thread as it is now, None if it is gone.

        Raises:
            NoSuchProcess: the process ended.
        """
        tid = self.before.thread.tid
        try:
            now = self.target.see(tid, state=self.before.state)
        except (NoSuchThread, BadAddress):
            if not is_alive(self.target.pid):
                raise NoSuchProcess(f"process {self.target.pid} ended") from None
            try:
                gone = read_task(self.target.pid, tid).start_time != self.before.thread.start_time
            except NoSuchThread:
                gone = True
            if gone:
                return None
            # Its Python state is gone already, and the OS thread about to end: not gone yet.
            return self.before
        if now.thread.start_time != self.before.thread.start_time:
            return None
        return now

    def is_pending(self, sighting: Sighting) -> bool:
        """Say whether an exception waits to be raised in the thread."""
        offset = self.target.runtime.layout.thread_state.async_exc
        return sighting.state.content[offset : offset + 8] != bytes(8)

    def wait_for_delivery(self, deadline: float) -> Verdict:
        """Wait until a pending exception was raised, or the thread shows that it will not notice it by itself."""
        cpu_before = read_cpu_time(self.target.pid, self.before.thread.tid)
        self._poll = FIRST_POLL_SECONDS
        blocked_since: float | None = None
        while True:
            try:
                now = self.sight()
            except NoSuchProcess:
                return Verdict(Outcome.TARGET_DIED, None, delivered=False)
            if now is None:
                return Verdict(Outcome.ENDED, None, delivered=True)
            if not self.is_pending(now):
                return Verdict(None, now, delivered=True)
            moment = time.monotonic()
            try:
                doing = find_doing(self.target, now)
            except NoSuchThread:
                continue
            if doing is Doing.IN_SYSTEM_CALL:
                blocked_since = blocked_since or moment
                if moment - blocked_since > 0.005:  # not just passing through
                    return Verdict(None, now, delivered=False)
            else:
                blocked_since = None
            cpu = read_cpu_time(self.target.pid, self.before.thread.tid)
            if cpu is not None and cpu_before is not None and cpu - cpu_before > UNNOTICED_CPU_SECONDS:
                return Verdict(None, now, delivered=False, stuck_in_c=True)
            if moment >= deadline:
                return Verdict(None, now, delivered=False)
            self._pause(deadline)

    def wait_for_effect(self, deadline: float) -> Verdict:
        """Wait, after an exception was raised in the thread, until it ended, went on elsewhere, or is back where it was."""
        self._poll = FIRST_POLL_SECONDS
        settled_seconds = 0.0  # in the same place, and free to go on
        last_moment = time.monotonic()
        last: Sighting | None = None
        while True:
            try:
                now = self.sight()
            except NoSuchProcess:
                return Verdict(Outcome.TARGET_DIED, None, delivered=True)
            if now is None:
                return Verdict(Outcome.ENDED, None, delivered=True)
            moment = time.monotonic()
            same_place = last is not None and _same_place(last, now)
            if not same_place:
                settled_seconds = 0.0
            elif not self._is_waiting_for_its_turn(now):
                settled_seconds += moment - last_moment
            last_moment, last = moment, now
            if settled_seconds > SETTLED_SECONDS:
                if self.is_back_at_work(now):
                    return Verdict(Outcome.UNWOUND, now, delivered=True)
                elsewhere = self._impatient and settled_seconds > SETTLED_ELSEWHERE_SECONDS
                if elsewhere or _same_place(self.before, now):
                    return Verdict(Outcome.SURVIVED, now, delivered=True)
            elif same_place and now.thread.pool_worker and self.is_back_at_work(now):
                return Verdict(Outcome.UNWOUND, now, delivered=True)
            if moment >= deadline:
                outcome = Outcome.UNWOUND if self.is_back_at_work(now) else Outcome.SURVIVED
                return Verdict(outcome, now, delivered=True)
            self._pause(deadline)

    def is_back_at_work(self, now: Sighting) -> bool:
        """Say whether the stuck call is gone: the frame the thread was stuck in is no longer on its stack."""
        stuck = self.before.raw_frames[0] if self.before.raw_frames else None
        if stuck is None or not now.raw_frames:
            return False
        if now.thread.pool_worker and self._find_work_item(now) != self._work_item:
            return True  # another work item, or none: even if it runs the same function
        return all((frame.address, frame.code) != (stuck.address, stuck.code) for frame in now.raw_frames)

    def _find_work_item(self, sighting: Sighting) -> int | None:
        """Return the address of the work item that a pool worker has in hand, None while it waits for one."""
        names = [frame.function for frame in sighting.thread.frames]
        depth = names.index("_worker") if sighting.thread.pool_worker else 0
        if depth == 0 or names[depth - 1] != "run":  # _worker() calls _WorkItem.run()
            return None
        try:
            return self.target.read_first_local(sighting.raw_frames[depth - 1])
        except BadAddress:
            return None

    def _is_waiting_for_its_turn(self, now: Sighting) -> bool:
        try:
            return find_doing(self.target, now).is_waiting_for_its_turn
        except NoSuchThread:
            return False

    def _pause(self, deadline: float) -> None:
        time.sleep(max(0.0, min(self._poll, deadline - time.monotonic())))
        self._poll = min(self._poll * 1.5, LONGEST_POLL_SECONDS)


def _same_place(one: Sighting, other: Sighting) -> bool:
    return one.raw_frames == other.raw_frames


@dataclass(frozen=True, slots=True)
class Life:
    """Whether the process lives on, with the evidence."""

    alive: bool
    evidence: tuple[str, ...]


def check_life(target: Target, interpreter: Interpreter) -> Life:
    """Look whether the process lives, untraced and running, and whether its GIL goes round."""
    life = check_life_of_process(target)
    if not life.alive:
        return life
    try:
        return Life(True, (*life.evidence, _describe_gil(target, interpreter)))
    except (NoSuchProcess, NoSuchThread):
        return Life(False, ("the process ended",))


def check_life_of_process(target: Target) -> Life:
    """Look whether the process lives, untraced and running."""
    try:
        status = read_status(target.pid)
        if status.state in "ZXx" or read_task(target.pid, target.pid).start_time != target.start_time:
            return Life(False, ("the process ended",))
    except (NoSuchProcess, NoSuchThread):
        return Life(False, ("the process ended",))
    evidence = ["the process lives"]
    if status.state in "Tt":
        evidence.append("it is STOPPED: let it continue with kill -CONT")
    if status.tracer:
        evidence.append(f"it is TRACED by process {status.tracer}")
    return Life(True, tuple(evidence))


def _describe_gil(target: Target, interpreter: Interpreter) -> str:
    layout = target.runtime.layout.gil_runtime_state
    deadline = time.monotonic() + GIL_SECONDS
    first = None
    while True:
        try:
            gil = read_gil(target.memory, layout, interpreter.gil)
        except BadAddress:
            return "the interpreter is gone"
        if not gil.enabled:
            return "there is no GIL"
        if not gil.holder:
            return "the GIL goes round (seen free)"
        if first is None:
            first = gil
        elif (gil.holder, gil.switches) != (first.holder, first.switches):
            return "the GIL goes round (seen changing hands)"
        if time.monotonic() >= deadline:
            break
        time.sleep(0.002)
    holder = target.find_gil_holder()
    if holder is None:
        gil = read_gil(target.memory, layout, interpreter.gil)
        return "the GIL is HELD BY NO LIVING THREAD" if gil.holder else "the GIL goes round (seen free)"
    where = f" in {holder.frames[0]}" if holder.frames else ""
    return f"the GIL is held by thread {holder.tid}{where}"
