"""Examine one thread, by looking only: what it does, what to try first, or why not to touch it (= ``--dry-run``)."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from enum import Enum

from threadsurgeon.cpython.threads import read_finalizing
from threadsurgeon.errors import NoSuchThread, Refused, TargetBusy, ThreadsurgeonError
from threadsurgeon.inventory import Sighting, Target
from threadsurgeon.linux.process import SystemCall, read_status, read_system_call
from threadsurgeon.model import Plan
from threadsurgeon.surgery.technique import Victim

CHECKS = ("PyErr_CheckSignals", "Py_MakePendingCalls")
# Locks of 3.12 and 3.13 call this one directly.
PRIVATE_CHECKS = ("_PyEval_MakePendingCalls",)
ASYNC_EXCEPTION_BIT = 1 << 3  # _PY_ASYNC_EXCEPTION_BIT in tstate->eval_breaker, 3.13 on
FUTEX = 202  # x86-64
# PyErr_SetNone cannot make an instance of these: they want arguments, and a TypeError would be raised in their place.
NEEDS_ARGUMENTS = ("UnicodeDecodeError", "UnicodeEncodeError", "UnicodeTranslateError", "BaseExceptionGroup")


class Doing(str, Enum):
    """What a thread is in, as the kernel shows it."""

    RUNNING = "running"
    WAITING_FOR_GIL = "waiting for the GIL"
    IN_SYSTEM_CALL = "in a system call"


@dataclass(frozen=True, slots=True)
class Examination:
    """What was found out about a thread before touching it."""

    target: Target
    sighting: Sighting
    doing: Doing
    exception: str

    @property
    def techniques(self) -> tuple[str, ...]:
        """The techniques to try, gentlest that can reach it first."""
        return ("interrupt",) if self.doing is Doing.IN_SYSTEM_CALL else ("raise", "interrupt")


def find_doing(target: Target, sighting: Sighting) -> Doing:
    """Say what the thread is in at this moment.

    Raises:
        NoSuchThread: it ended.
    """
    call = read_system_call(target.pid, sighting.thread.tid)
    if call is None:
        return Doing.RUNNING
    return Doing.WAITING_FOR_GIL if _is_gil_wait(target, sighting, call) else Doing.IN_SYSTEM_CALL


def _is_gil_wait(target: Target, sighting: Sighting, call: SystemCall) -> bool:
    # take_gil() waits on the condition variable inside struct _gil_runtime_state, of which the kernel sees the futex word.
    gil = sighting.state.interpreter.gil
    return call.number == FUTEX and gil <= call.arguments[0] < gil + target.runtime.layout.gil_runtime_state.size


def examine(target: Target, sighting: Sighting, exception: str | None) -> Examination:
    """Find out what the thread does and which exception suits it.

    Raises:
        Refused: operating on it would harm.
        TargetBusy: not now: it is traced by another, stopped, or waits where nothing can interrupt it.
        NoSuchThread: it ended.
    """
    thread = sighting.thread
    if thread.main:
        raise Refused(
            f"thread {thread.tid} is the main thread of process {target.pid}: its end is the end of the process",
            hint=f"to interrupt what it does, as Ctrl-C would: kill -INT {target.pid}",
        )
    if target.runtime.layout.free_threaded:
        raise Refused(f"CPython {target.runtime.version} is a free-threaded build: operating on it is not supported yet")
    if target.runtime.problem is not None:
        raise Refused(target.runtime.problem)
    if read_finalizing(target.memory, target.runtime):
        raise Refused(f"process {target.pid} is shutting down (Py_FinalizeEx runs): its threads end with it")
    status = read_status(thread.tid)
    if status.tracer:
        tracer = read_status(status.tracer).name
        raise TargetBusy(
            f"thread {thread.tid} is traced by process {status.tracer} ({tracer})", hint="end that tracer first"
        )
    if status.state in "Tt":
        raise TargetBusy(f"process {target.pid} is stopped", hint=f"let it continue first: kill -CONT {target.pid}")
    if status.state == "D":
        raise TargetBusy(f"thread {thread.tid} waits for a device or disk (state D): nothing can interrupt that")
    chosen = exception or ("TimeoutError" if thread.pool_worker else "SystemExit")
    return Examination(target, sighting, find_doing(target, sighting), chosen)


def make_plan(examination: Examination) -> Plan:
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
    warnings = []
    if thread.pool_worker and examination.exception == "SystemExit":
        warnings.append(
            "a pool worker's SystemExit is stored in the future and raised again in whoever asks for its result"
        )
    assert thread.ident is not None
    return Plan(
        pid=examination.target.pid,
        tid=thread.tid,
        ident=thread.ident,
        name=thread.name,
        exception=examination.exception,
        techniques=examination.techniques,
        doing=f"{examination.doing.value}, at {where}",
        reason=reasons[examination.doing],
        leaves_behind="nothing: Python unwinds, finally blocks run, with blocks give their locks back",
        stack=thread.frames,
        warnings=tuple(warnings),
    )


def find_exception(target: Target, name: str) -> int:
    """Return the address of a builtin exception class in the target.

    Raises:
        ThreadsurgeonError: the target has no such exception, or it cannot be raised without arguments.
    """
    if name in NEEDS_ARGUMENTS:
        raise ThreadsurgeonError(f"{name} cannot be raised without arguments")
    pointer = target.runtime.image.symbol(f"PyExc_{name}") if re.fullmatch(r"[A-Za-z]\w*", name) else None
    if pointer is None:
        raise ThreadsurgeonError(
            f"CPython {target.runtime.version} has no builtin exception {name}", hint="for example --exception TimeoutError"
        )
    (address,) = struct.unpack("<Q", target.memory.read(pointer, 8))
    return int(address)


def make_victim(examination: Examination) -> Victim:
    """Gather the addresses that the techniques need.

    Raises:
        UnsupportedPython: the target does not export what is needed.
        ThreadsurgeonError: there is no such exception.
    """
    target, state, thread = examination.target, examination.sighting.state, examination.sighting.thread
    runtime = target.runtime
    layout = runtime.layout
    exception = find_exception(target, examination.exception)
    functions = {name: runtime.symbol(name) for name in ("PyErr_SetNone", *CHECKS)}
    for name in PRIVATE_CHECKS:
        address = runtime.image.symbol(name)
        if address is not None:
            functions[name] = address
    # Since 3.12 (PEP 683) the builtin exception classes are immortal and their references are not counted.
    counted = layout.version < (3, 12)
    return Victim(
        pid=target.pid,
        tid=thread.tid,
        start_time=thread.start_time,
        thread_state=state.address,
        thread_id_address=state.address + layout.thread_state.thread_id,
        ident=state.ident,
        async_exc_address=state.address + layout.thread_state.async_exc,
        flags=_find_flags(examination),
        eval_breaker_sources=_find_eval_breaker_sources(examination),
        exception=exception,
        exception_refcnt_address=exception + layout.pyobject.ob_refcnt if counted else None,
        functions=functions,
    )


def _find_flags(examination: Examination) -> tuple[tuple[int, int, int], ...]:
    """Return (address, size, bits) of what makes the eval loop look for a pending exception."""
    runtime, state = examination.target.runtime, examination.sighting.state
    if runtime.layout.thread_state.eval_breaker is not None:
        # Since 3.13 (gh-112175) a thread has its own. Other threads set other bits: only the lowest byte is written.
        return ((state.address + runtime.layout.thread_state.eval_breaker, 1, ASYNC_EXCEPTION_BIT),)
    request, eval_breaker = _find_ceval(examination, "pending_async_exc", "eval_breaker")
    return ((request, 4, 1), (eval_breaker, 4, 1))


def _find_eval_breaker_sources(examination: Examination) -> tuple[int, ...]:
    """Return the addresses of the ints that ``eval_breaker`` sums up, ``pending.async_exc`` excepted (3.8 to 3.12)."""
    if examination.target.runtime.layout.thread_state.eval_breaker is not None:
        return ()
    return _find_ceval(
        examination,
        "gil_drop_request",
        "signals_pending",
        "pending_calls_to_do",
        "pending_mainthread_calls_to_do",
        "gc_scheduled",
    )


def _find_ceval(examination: Examination, *fields: str) -> tuple[int, ...]:
    """Return the addresses of the fields of ``ceval``, be it the runtime's or the interpreter's, that this version has."""
    runtime, interpreter = examination.target.runtime, examination.sighting.state.interpreter
    addresses = []
    for field in fields:
        for base, layout in (
            (interpreter.address, runtime.layout.interpreter_state),
            (runtime.address, runtime.layout.runtime_state),
        ):
            offset = getattr(layout, f"ceval_{field}", None)
            if offset is not None:
                addresses.append(base + offset)
    return tuple(addresses)


def select_thread(pid: int | None, designation: str) -> tuple[int, int]:
    """Return (PID, TID) of the thread that a person means: a TID, or with ``pid`` also a Python ident or a name.

    Raises:
        NoSuchThread: there is none, or more than one of that name.
    """
    from threadsurgeon.linux.process import find_process, list_tids

    number = int(designation, 0) if re.fullmatch(r"\d+|0[xX][0-9a-fA-F]+", designation) else None
    if pid is None:
        if number is None:
            raise NoSuchThread(
                f"{designation!r} is not a TID", hint="with a name or an ident, say which process: --pid PID"
            )
        return find_process(number), number
    if number in list_tids(pid):
        assert number is not None
        return pid, number
    threads = Target(pid).list_threads().threads
    matches = [thread for thread in threads if thread.ident == number or thread.name == designation]
    if len(matches) == 1:
        return pid, matches[0].tid
    if not matches:
        raise NoSuchThread(
            f"process {pid} has no thread with the TID, ident or name {designation!r}", hint=f"threadsurgeon list {pid}"
        )
    tids = ", ".join(str(thread.tid) for thread in matches[:10])
    raise NoSuchThread(f"{len(matches)} threads of process {pid} are named {designation!r}", hint=f"choose one: {tids}")
