"""What every thread waits for, and for how long: by looking only.

The kernel tells the system call and since when the thread has not run, the arguments and what they lead to tell on what,
and where that is a lock the Python stack tells what kind of thing it belongs to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from threadsurgeon.errors import NoSuchProcess, NoSuchThread
from threadsurgeon.explain.arguments import ReadAhead, seconds_left
from threadsurgeon.explain.python_waits import explain_frames
from threadsurgeon.explain.system_calls import Reason, Surroundings, explain_call, find_times
from threadsurgeon.linux.memory import Memory
from threadsurgeon.linux.process import (
    FUTEX,
    OUTSIDE,
    Status,
    SystemCall,
    Task,
    describe_process,
    read_kernel_function,
    read_status,
    read_task,
)
from threadsurgeon.linux.restarted import find_restarted
from threadsurgeon.model.threads import Frame, Wait

# Since when a thread has not run costs as much as all the rest of what is listed of it: with more threads it is left out.
MAX_TIMED = 200
# Where a thread waits that opens a FIFO (fs/pipe.c).
FIFO_PARTNER = "wait_for_partner"
# What a Python stack may say of a thread that waits for anything, not only for a lock.
_IDLE = frozenset({"work", "event-loop"})


class Subject(NamedTuple):
    """A thread, as far as it matters here. ``gil``: the address of the GIL that it needs, 0 for a native thread."""

    task: Task
    frames: tuple[Frame, ...] = ()
    gil: int = 0


def explain_waits(
    status: Status, memory: Memory, subjects: Sequence[Subject], calls: Mapping[int, SystemCall], gil_size: int
) -> dict[int, Wait]:
    """Return what each thread waits for, by TID. Those that run, and those of which the kernel does not tell, are left out.

    ``gil_size``: the size of ``struct _gil_runtime_state`` in bytes.
    """
    waiting = [subject for subject in subjects if subject.task.state in "SDI"]
    waited = _measure(status.tgid, waiting) if calls and len(waiting) <= MAX_TIMED else {}
    around = Surroundings(status, ReadAhead(memory, (time for call in calls.values() for time in find_times(call))))
    waits: dict[int, Wait] = {}
    shared: dict[int, Wait] = {}  # of locks, by the identity of the stack
    for subject in waiting:
        tid = subject.task.tid
        made = calls.get(tid)
        if made is None:
            continue
        call = find_restarted(status.tgid, tid, memory, made)
        alike = not waited and _is_told_by_stack(subject, call, gil_size)
        wait = shared.get(id(subject.frames)) if alike else None
        if wait is None:
            reason = _explain(around, subject, call, gil_size)
            if call is not made and reason.timeout is not None and reason.timeout.clock is None:
                reason = reason._replace(timeout=None)  # what was left of it at the stop is known to the kernel alone
            seconds = waited.get(tid)
            left = seconds_left(reason.timeout, seconds) if reason.timeout is not None else None
            wait = Wait(reason.kind, reason.detail, _rounded(seconds), _rounded(left))
            if alike:
                shared[id(subject.frames)] = wait
        waits[tid] = wait
    for subject in subjects:
        if subject.task.state in "Tt":
            waits[subject.task.tid] = _explain_stop(subject.task)
    return waits


def _is_told_by_stack(subject: Subject, call: SystemCall, gil_size: int) -> bool:
    """Say whether nothing but its stack tells what a thread waits for: a lock, other than the GIL, and without a timeout."""
    if call.number != FUTEX or not subject.frames or subject.task.state == "D":
        return False
    timeout = call.arguments[3]
    return not timeout and not call.is_futex_in(subject.gil, gil_size)


def _explain(around: Surroundings, subject: Subject, call: SystemCall, gil_size: int) -> Reason:
    # take_gil() waits on the condition variable inside struct _gil_runtime_state, of which the kernel sees the futex word.
    if call.is_futex_in(subject.gil, gil_size):
        return Reason("gil", "waiting for the GIL")
    if call.number == OUTSIDE:
        reason = Reason("page-fault", "waiting for memory to be brought in (page fault)")
    else:
        reason = explain_call(around, call)
    if subject.task.state == "D":
        function = read_kernel_function(around.pid, subject.task.tid)
        return reason._replace(detail=f"{reason.detail}, uninterruptibly{f' ({function})' if function else ''}")
    if reason.kind == "open" and read_kernel_function(around.pid, subject.task.tid) == FIFO_PARTNER:
        return reason._replace(detail=f"{reason.detail}: a FIFO, whose other end nobody has opened")
    known = explain_frames(subject.frames)
    if known is not None and known[0] in _IDLE:
        detail = f"waiting for {known[1]}"
        return reason._replace(kind=known[0], detail=detail if reason.kind == "lock" else f"{detail} ({reason.detail})")
    if reason.kind == "lock" and subject.frames:
        kind, words = known or ("lock", "a lock")
        return Reason(kind, f"waiting for {words}", reason.timeout)
    return reason


def _measure(pid: int, subjects: Sequence[Subject]) -> dict[int, float]:
    """Return for how many seconds each thread has not run."""
    from threadsurgeon.linux.last_run import RunClocks, read_last_run

    since = {}
    for task, _, _ in subjects:
        began = read_last_run(pid, task.tid)
        try:
            still_there = read_task(pid, task.tid).processor == task.processor
        except NoSuchThread:
            continue
        if began is not None and still_there:  # else it ran just now, and the time may be another CPU's
            since[task.tid] = task.processor, began
    clocks = RunClocks({processor for processor, _ in since.values()})
    waited = {}
    for tid, (processor, began) in since.items():
        now = clocks.now(processor)
        if now is not None:
            waited[tid] = max(0.0, now - began)
    return waited


def _explain_stop(task: Task) -> Wait:
    if task.state == "T":
        return Wait("stopped", "stopped by a signal, until one continues it (SIGCONT)")
    try:
        tracer = describe_process(read_status(task.tid).tracer)
    except NoSuchProcess:
        tracer = None
    return Wait("traced", f"stopped by its tracer{f', {tracer}' if tracer else ''}")


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
