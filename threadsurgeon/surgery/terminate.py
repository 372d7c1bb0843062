"""Technique 4, terminate: have a thread end where it waits, without unwinding. Only by force, and only where it can be done.

A thread without Python makes the system call ``exit`` in place of the one it waits in. The kernel then wakes whoever joins it.
What does not happen: destructors of thread-local data, and giving back the stack of a detached thread.

A Python thread first takes the GIL, unless it holds it, drops its thread state, which hands the GIL on, tells those who join
it, and then makes the same call: a chain of CPython's own functions that it runs by itself. No ``finally`` or ``with``
block runs, no lock is given back, and what its frames refer to stays for ever. ``threading.enumerate()`` goes on listing it,
but ``join()`` returns, ``is_alive()`` says no, and the process ends in order.

Neither is done to a thread in the midst of something: it must wait in a system call that holds nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from threadsurgeon.cpython.thread_handle import SINCE as HANDLE_SINCE
from threadsurgeon.cpython.thread_handle import find_thread_handle
from threadsurgeon.cpython.threads import ThreadState, read_finalizing, read_gil, read_main_ident
from threadsurgeon.debugger import terminate as commands
from threadsurgeon.debugger.session import Session
from threadsurgeon.debugger.terminate import Place, WayOut
from threadsurgeon.errors import NativeThread, Refused
from threadsurgeon.inventory import Target
from threadsurgeon.linux.mappings import iterate_images, list_mapped_files
from threadsurgeon.linux.process import FUTEX, SystemCall, read_status, read_system_call, read_task
from threadsurgeon.linux.restarted import find_restarted
from threadsurgeon.surgery.builds import refuse_musl, refuse_technique
from threadsurgeon.surgery.exit_chain import ExitChain, find_store_piece
from threadsurgeon.surgery.interrupt import refuse_shadow_stack
from threadsurgeon.surgery.plan import Examination
from threadsurgeon.surgery.return_chain import find_pieces
from threadsurgeon.surgery.technique import Applied, Effect, Victim

POLL_SECONDS = 0.005
SYSCALL_SIZE = 2

# x86-64: poll, select, pause, nanosleep, accept, recvfrom, recvmsg, wait4, semop, msgrcv, flock, rt_sigtimedwait,
# rt_sigsuspend, semtimedop, clock_nanosleep, epoll_wait, waitid, pselect6, ppoll, epoll_pwait, accept4. Not read and write:
# stdio calls them with the lock of its stream held. Not futex: whoever waits is in the books of a lock or condition, in
# user space.
HOLDS_NOTHING = frozenset(
    (7, 23, 34, 35, 43, 45, 47, 61, 65, 70, 73, 128, 130, 220, 230, 232, 247, 270, 271, 281, 288)
)

WHEN_DROPPED = "it can be while it waits in a system call that holds nothing: try again, or with a longer --grace"

Obstacle = Callable[[int, int, SystemCall], "str | None"]
"""Says why a thread (PID, TID) that waits in a system call may not be dropped there; None if it may."""


def find_obstacle(pid: int, tid: int, call: SystemCall) -> str | None:
    """Accept a system call made by the C library that waits and holds nothing."""
    if call.number == FUTEX:
        return "it waits for a lock or a condition: to vanish there would leave that damaged"
    if call.number not in HOLDS_NOTHING:
        return f"it waits in system call {call.number}, and may hold a lock of its library meanwhile"
    if read_status(tid).state != "S":
        return "it is not asleep"
    for file in list_mapped_files(pid):
        if _is_libc(file.path) and _covers(pid, file.path, call.program_counter):
            return None
    return "its system call is not made by the C library"


def terminate_native(
    session: Session, target: Target, tid: int, deadline_seconds: float, *, find_obstacle: Obstacle = find_obstacle
) -> Applied:
    """End a thread that has no Python thread state.

    Leaves behind: what the thread owns, its stack included where nobody joins it.

    Raises:
        Refused: it is the main thread, has Python after all, or was not at a place where it can be dropped in that time.
        Otherwise as ``raise_async``.
    """
    refuse_musl(target, "terminate")
    task = read_task(target.pid, tid)
    if tid == target.pid:
        raise Refused(f"thread {tid} is the main thread of process {target.pid}")
    deadline = time.monotonic() + deadline_seconds
    while True:
        call = _await_place(target, tid, find_obstacle, deadline)
        try:
            target.see(tid)
        except NativeThread:
            pass
        else:
            raise Refused(f"thread {tid} has a Python thread state now")
        # It has not moved while we looked: so it has no thread state where it is, and holds no GIL.
        if read_system_call(target.pid, tid) == call:
            applied = _send(session, target.pid, tid, task.start_time, call, None)
            if applied is not None:
                return applied


def terminate(
    session: Session,
    examination: Examination,
    victim: Victim,
    deadline_seconds: float,
    *,
    find_obstacle: Obstacle = find_obstacle,
) -> Applied:
    """End a Python thread without unwinding.

    Leaves behind: held locks, references of all its frames, its entry in ``threading._active``.

    Raises:
        Refused: it was not at a place where it can be dropped in that time, is in a sub-interpreter, or the build or the C
            library does not allow it.
        UnsupportedPython: a function that we need is not there.
        Otherwise as ``raise_async``.
    """
    target, state = examination.target, examination.sighting.state
    refuse_technique(target, "terminate")
    refuse_shadow_stack(victim)
    if state.interpreter.id != 0:
        raise Refused(f"thread {victim.tid} is in a sub-interpreter")
    if read_finalizing(target.memory, target.runtime):
        raise Refused(f"process {target.pid} is shutting down")
    plan = _Departure(target, state)
    deadline = time.monotonic() + deadline_seconds
    while True:
        call = _await_place(target, victim.tid, find_obstacle, deadline)
        way_out = plan.find_way_out(victim, call)
        if read_system_call(target.pid, victim.tid) == call:
            applied = _send(session, target.pid, victim.tid, victim.start_time, call, way_out)
            if applied is not None:
                return applied


class _Departure:
    """What a Python thread does on its way out, found before it is stopped."""

    def __init__(self, target: Target, state: ThreadState) -> None:
        self._target = target
        self._state = state
        image, runtime = target.runtime.image, target.runtime
        # Not in a library that the target may unload.
        lasting = [image, *(other for other in iterate_images(target.pid) if _is_libc(other.file.path))]
        executable = [
            (load.address + each.bias, load.memory_size) for each in lasting for load in each.elf.loads if load.flags & 1
        ]
        self._pieces = find_pieces(target.memory, executable)
        self._take_gil = runtime.symbol("PyEval_RestoreThread")
        self._clear = runtime.symbol("PyThreadState_Clear")
        self._delete = runtime.symbol("PyThreadState_DeleteCurrent")
        self._handle = self._store = None
        if runtime.layout.version >= HANDLE_SINCE:
            self._handle = find_thread_handle(target.memory, runtime, state)
        if self._handle is not None:
            self._notify = runtime.symbol("_PyEvent_Notify")
            self._store = find_store_piece(target.memory, executable)
            self._main_ident = read_main_ident(target.memory, runtime)

    def find_way_out(self, victim: Victim, call: SystemCall) -> WayOut:
        """Return the way out from where the thread waits now."""
        layout, state = self._target.runtime.layout, self._state
        gil = read_gil(self._target.memory, layout.gil_runtime_state, state.interpreter.gil)
        holds = gil.holder == state.address
        chain = ExitChain(self._pieces, self._store)
        if not holds:
            chain.call(self._take_gil, state.address)
        chain.call(self._clear, state.address)
        chain.call(self._delete)
        if self._handle is not None:
            chain.call(self._notify, self._handle.exiting)
            # threading._shutdown() waits for every handle in its list but the main thread's own. It would wait for this one
            # again and again, as nobody takes it off the list any more.
            chain.store(self._handle.ident, self._main_ident)
        stack, content = chain.build(call.program_counter - SYSCALL_SIZE, call.stack_pointer)
        stores: tuple[tuple[int, int, int], ...] = ()
        if layout.thread_state.datastack_chunk is not None:
            # Frames live there, and frame objects that others keep (in tracebacks) point to them: not to be freed.
            stores = ((state.address + layout.thread_state.datastack_chunk, 8, 0),)
        return WayOut(
            victim=victim,
            gil=((gil.address + layout.gil_runtime_state.last_holder, 8, state.address),) if holds else (),
            stores=stores,
            stack=stack,
            content=content,
            program_counter=self._pieces.return_,
        )


def _send(
    session: Session, pid: int, tid: int, start_time: int, call: SystemCall, way_out: WayOut | None
) -> Applied | None:
    place = Place(call.number, call.stack_pointer, call.program_counter)
    with session.custody(pid, tid):
        done = commands.terminate(session, pid, tid, start_time, place, way_out)
    return None if done.moved else Applied(Effect.EXITING, done.stopped_seconds, session.version, in_system_call=True)


def _await_place(target: Target, tid: int, find_obstacle: Obstacle, deadline: float) -> SystemCall:
    while True:
        call = read_system_call(target.pid, tid)
        if call is None:
            reason: str | None = "it runs"
        else:
            reason = find_obstacle(target.pid, tid, find_restarted(target.pid, tid, target.memory, call))
        if call is not None and reason is None:
            return call
        if time.monotonic() >= deadline:
            raise Refused(f"thread {tid} cannot be dropped where it is: {reason}", hint=WHEN_DROPPED)
        time.sleep(POLL_SECONDS)


def _covers(pid: int, path: str, address: int) -> bool:
    with open(f"/proc/{pid}/maps", errors="surrogateescape") as maps:
        for line in maps:
            fields = line.rstrip("\n").split(maxsplit=5)
            start, end = (int(word, 16) for word in fields[0].split("-"))
            if start <= address < end:
                return fields[5:] == [path] and "x" in fields[1]
    return False


def _is_libc(path: str) -> bool:
    return os.path.basename(path).startswith(("libc.", "libc-", "libpthread", "ld-musl"))
