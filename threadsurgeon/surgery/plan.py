"""Examine one thread, by looking only: what it does, what to try first, or why not to touch it (= ``--dry-run``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from threadsurgeon.cpython.held_locks import read_holdings
from threadsurgeon.cpython.threads import is_waiting_to_attach, read_finalizing
from threadsurgeon.errors import Refused, TargetBusy
from threadsurgeon.inventory import Sighting, Target
from threadsurgeon.linux.memory import BadAddress
from threadsurgeon.linux.process import FUTEX, SystemCall, read_status, read_system_call, read_thread_status
from threadsurgeon.model.operations import Plan
from threadsurgeon.model.threads import Thread
from threadsurgeon.surgery.builds import is_allowed, refuse_unproven_version
from threadsurgeon.surgery.ladder import HARD, RUNGS, Policy
from threadsurgeon.surgery.main_thread import check_handles_interrupt


class Doing(str, Enum):
    """What a thread is in, as the kernel shows it."""

    RUNNING = "running"
    WAITING_FOR_GIL = "waiting for the GIL"
    WAITING_FOR_COLLECTOR = "waiting for the garbage collector"
    IN_SYSTEM_CALL = "in a system call"

    @property
    def is_waiting_for_its_turn(self) -> bool:
        """Whether it would run Python code, and may not yet: nothing can be told from where it stands."""
        return self in (Doing.WAITING_FOR_GIL, Doing.WAITING_FOR_COLLECTOR)


@dataclass(frozen=True, slots=True)
class Examination:
    """What was found out about a thread before touching it."""

    target: Target
    sighting: Sighting
    doing: Doing
    exception: str

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to know before doing it."""
        return find_hazards(self.sighting.thread, self.target.runtime.layout.version, self.exception)

    @property
    def techniques(self) -> tuple[str, ...]:
        """The techniques to try, gentlest that can reach it first."""
        if self.sighting.thread.main:
            return ("signal",)
        return ("interrupt",) if self.doing is Doing.IN_SYSTEM_CALL else ("raise", "interrupt")


def find_doing(target: Target, sighting: Sighting) -> Doing:
    """Say what the thread is in at this moment.

    Raises:
        NoSuchThread: it ended.
    """
    call = read_system_call(target.pid, sighting.thread.tid)
    if call is None:
        return Doing.RUNNING
    if _is_gil_wait(target, sighting, call):
        return Doing.WAITING_FOR_GIL
    if call.number == FUTEX and is_waiting_to_attach(
        target.memory, target.runtime.layout, sighting.state, call.arguments[0]
    ):
        return Doing.WAITING_FOR_COLLECTOR
    return Doing.IN_SYSTEM_CALL


def _is_gil_wait(target: Target, sighting: Sighting, call: SystemCall) -> bool:
    # take_gil() waits on the condition variable inside struct _gil_runtime_state, of which the kernel sees the futex word.
    gil = sighting.state.interpreter.gil
    return call.is_futex_in(gil, target.runtime.layout.gil_runtime_state.size)


def examine(
    target: Target, sighting: Sighting, exception: str | None, *, allow_main: bool = False
) -> Examination:
    """Find out what the thread does and which exception suits it.

    Raises:
        Refused: operating on it would harm.
        TargetBusy: not now: it is traced by another, stopped, or waits where nothing can interrupt it.
        NoSuchThread: it ended.
    """
    thread = sighting.thread
    if thread.main and not allow_main:
        raise Refused(
            f"thread {thread.tid} is the main thread of process {target.pid}: its end is the end of the process",
            hint="to raise KeyboardInterrupt there, as Ctrl-C does: --main",
        )
    if thread.main and exception not in (None, "KeyboardInterrupt"):
        raise Refused(f"in the main thread only KeyboardInterrupt can be raised, not {exception}")
    if thread.main:
        check_handles_interrupt(target.pid)
    refuse_unproven_version(target.runtime)
    if target.runtime.problem is not None:
        raise Refused(target.runtime.problem)
    refuse_shutdown(target)
    status = read_thread_status(thread.tid)
    if status.tracer:
        tracer = read_status(status.tracer).name
        raise TargetBusy(
            f"thread {thread.tid} is traced by process {status.tracer} ({tracer})", hint="end that tracer first"
        )
    if status.state in "Tt":
        raise TargetBusy(f"process {target.pid} is stopped", hint=f"let it continue first: kill -CONT {target.pid}")
    if status.state == "D":
        raise TargetBusy(f"thread {thread.tid} waits for a device or disk (state D): nothing can interrupt that")
    default = "KeyboardInterrupt" if thread.main else "TimeoutError" if thread.pool_worker else "SystemExit"
    chosen = default if exception is None else exception
    return Examination(target, sighting, find_doing(target, sighting), chosen)


def refuse_shutdown(target: Target) -> None:
    """Make sure that the interpreter is not about to end.

    Raises:
        Refused: it is.
    """
    if read_finalizing(target.memory, target.runtime):
        raise Refused(f"process {target.pid} is shutting down (Py_FinalizeEx runs): its threads end with it")


def make_plan(examination: Examination, policy: Policy) -> Plan:
    """Say what would be done, for people and programs."""
    thread = examination.sighting.thread
    where = str(thread.frames[0]) if thread.frames else "no Python frame"
    reasons = {
        Doing.RUNNING: "it runs: bytecode notices a pending exception by itself; C code that checks for signals "
        "is interrupted if it does not",
        Doing.WAITING_FOR_GIL: "it waits for the GIL: it notices a pending exception as soon as it has it",
        Doing.IN_SYSTEM_CALL: "it waits in a system call: that is made to return early, and the exception is raised "
        "where CPython then checks for signals",
    }
    techniques = list(examination.techniques)
    if policy.climb and not thread.main:
        harder = HARD if policy.force else [technique for technique in HARD if technique != "terminate"]
        techniques += [technique for technique in harder if is_allowed(examination.target, technique)]
    rungs = tuple(RUNGS[technique] for technique in techniques)
    assert thread.ident is not None
    return Plan(
        pid=examination.target.pid,
        tid=thread.tid,
        ident=thread.ident,
        name=thread.name,
        exception=examination.exception,
        techniques=examination.techniques,
        doing=f"{examination.doing.value}, at {where}",
        reason=rungs[0].when if thread.main else reasons[examination.doing],
        leaves_behind=rungs[0].leaves_behind,
        stack=thread.frames,
        warnings=examination.warnings,
        rungs=rungs,
        holds=tuple(_describe_holdings(examination)),
    )


def _describe_holdings(examination: Examination) -> Iterator[str]:
    """Say what the thread is seen to hold; more than that it may hold unseen."""
    target, sighting = examination.target, examination.sighting
    try:
        holdings = read_holdings(target.memory, target.runtime, sighting.state, sighting.raw_frames)
    except BadAddress:
        return
    frames = sighting.thread.frames
    for block in holdings.blocks:
        lock = f", which holds {block.lock.type_name} at {block.lock.address:#x}" if block.lock else ""
        again = ", whose lock it has to take again before it can leave" if block.waits else ""
        certainty = "" if block.proven else " (not certain)"
        yield f"with block of {block.type_name}{lock}{again}, in {frames[block.frame]}{certainty}"
    in_blocks = {block.lock.address for block in holdings.blocks if block.lock}
    for held in holdings.locks:
        if held.address not in in_blocks:
            certainty = "" if held.proven else " (not certain)"
            yield f"{held.type_name} at {held.address:#x}, {held.found_in} of {frames[held.frame]}{certainty}"
    for index in holdings.handling:
        yield f"an exception that is being handled, in {frames[index]}"


def is_importing(thread: Thread) -> bool:
    """Say whether the thread is inside an import."""
    return any(frame.file.startswith("<frozen importlib._bootstrap") for frame in thread.frames)


def find_hazards(thread: Thread, version: tuple[int, int], exception: str) -> tuple[str, ...]:
    """Say what an exception may break at the place where the thread is, as any exception would that is raised there."""
    hazards = []
    if thread.pool_worker and exception in ("SystemExit", "KeyboardInterrupt"):
        hazards.append(
            f"a pool worker's {exception} is stored in its future, and raised again in whoever asks for the result"
        )
    innermost = thread.frames[0] if thread.frames else None
    if innermost and innermost.function == "_wait_for_tstate_lock" and (3, 9) <= version <= (3, 12):
        # Since bpo-45274 (3.9.8) until 3.13 (gh-114271).
        hazards.append("an exception in Thread.join lets threading of 3.9 to 3.12 believe that the joined thread has ended")
    if is_importing(thread):
        hazards.append("it is inside an import: the import fails, and the module may be left half initialised elsewhere")
    if any(frame.function in ("__exit__", "__aexit__", "__del__") for frame in thread.frames):
        hazards.append("it is inside an __exit__ or __del__ method: what that was to tidy up may stay as it is")
    return tuple(hazards)
