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
import struct
import time
from collections.abc import Callable

from threadsurgeon.cpython.objects import ObjectReader
from threadsurgeon.cpython.reading import walk_alone
from threadsurgeon.cpython.thread_objects import read_active
from threadsurgeon.cpython.threads import read_finalizing, read_gil, read_main_ident
from threadsurgeon.debugger import terminate as commands
from threadsurgeon.debugger.session import Session
from threadsurgeon.debugger.terminate import Place, WayOut
from threadsurgeon.errors import NativeThread, Refused, UnsupportedPython
from threadsurgeon.inventory import Target
from threadsurgeon.linux.mappings import iterate_images, list_mapped_files
from threadsurgeon.linux.memory import BadAddress
from threadsurgeon.linux.process import SystemCall, read_status, read_system_call, read_task
from threadsurgeon.surgery.interrupt import refuse_shadow_stack
from threadsurgeon.surgery.plan import Examination
from threadsurgeon.surgery.return_chain import RED_ZONE, STACK_ALIGNMENT, Pieces, find_pieces
from threadsurgeon.surgery.technique import Applied, Effect, Victim

POLL_SECONDS = 0.005
EXIT = 60
FUTEX = 202

# x86-64: poll, select, pause, nanosleep, accept, recvfrom, recvmsg, wait4, semop, msgrcv, flock, rt_sigtimedwait,
# rt_sigsuspend, semtimedop, clock_nanosleep, epoll_wait, waitid, pselect6, ppoll, epoll_pwait, accept4. Not read and write:
# stdio calls them with the lock of its stream held. Not futex: whoever waits is in the books of a lock or condition, in
# user space.
HOLDS_NOTHING = frozenset(
    (7, 23, 34, 35, 43, 45, 47, 61, 65, 70, 73, 128, 130, 220, 230, 232, 247, 270, 271, 281, 288)
)

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
        name = os.path.basename(file.path)
        if name.startswith(("libc.", "libc-", "libpthread", "ld-musl")) and _covers(pid, file.path, call.program_counter):
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
    task = read_task(target.pid, tid)
    if tid == target.pid:
        raise Refused(f"thread {tid} is the main thread of process {target.pid}")
    deadline = time.monotonic() + deadline_seconds
    while True:
        call = _await_place(target.pid, tid, find_obstacle, deadline)
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
        Refused: it was not at a place where it can be dropped in that time, or is in a sub-interpreter.
        UnsupportedPython: a function that we need is not there.
        Otherwise as ``raise_async``.
    """
    target, state = examination.target, examination.sighting.state
    refuse_shadow_stack(victim)
    if state.interpreter.id != 0:
        raise Refused(f"thread {victim.tid} is in a sub-interpreter")
    if read_finalizing(target.memory, target.runtime):
        raise Refused(f"process {target.pid} is shutting down")
    layout = target.runtime.layout
    pieces = _find_pieces(target)
    handle = find_handle(target, examination)
    deadline = time.monotonic() + deadline_seconds
    while True:
        call = _await_place(target.pid, victim.tid, find_obstacle, deadline)
        gil = read_gil(target.memory, layout.gil_runtime_state, state.interpreter.gil)
        holds = gil.holder == state.address
        calls = [] if holds else [(target.runtime.symbol("PyEval_RestoreThread"), state.address)]
        calls.append((target.runtime.symbol("PyThreadState_Clear"), state.address))
        calls.append((target.runtime.symbol("PyThreadState_DeleteCurrent"), 0))
        stores = []
        if layout.thread_state.datastack_chunk is not None:
            # Frames live there, and frame objects that others keep (in tracebacks) point to them: not to be freed.
            stores.append((state.address + layout.thread_state.datastack_chunk, 8, 0))
        if handle is not None:
            calls.append((target.runtime.symbol("_PyEvent_Notify"), handle + HANDLE_EXITING))
            # threading._shutdown() waits for every handle in its list that is not the main thread's own. It would wait for
            # this one again and again: nobody takes it off the list any more.
            stores.append((handle + HANDLE_IDENT, 8, read_main_ident(target.memory, target.runtime)))
        stack, content = build_chain(pieces, calls, call.program_counter - 2, call.stack_pointer)
        way_out = WayOut(
            victim=victim.arguments(),
            gil=((gil.address + layout.gil_runtime_state.last_holder, 8, state.address),) if holds else (),
            stores=tuple(stores),
            stack=stack,
            content=content,
            program_counter=pieces.return_,
        )
        if read_system_call(target.pid, victim.tid) == call:
            applied = _send(session, target.pid, victim.tid, victim.start_time, call, way_out)
            if applied is not None:
                return applied


def build_chain(
    pieces: Pieces, calls: list[tuple[int, int]], system_call: int, stack_pointer: int
) -> tuple[int, bytes]:
    """Return (address, content) of a chain that runs each function with its argument, then ``exit``.

    It is put below the stack pointer, to be entered by a return; ``system_call`` is the address of that instruction.
    """
    words: list[int] = []
    for function, argument in calls:
        # A function wants the stack pointer, which is then behind its own address, 8 beyond a multiple of 16.
        if len(words) % 2:
            words.append(pieces.return_)
        words += [pieces.pop_rdi, argument, function]
    words += [pieces.pop_rax, EXIT, system_call]
    address = (stack_pointer - RED_ZONE - 8 * len(words)) // STACK_ALIGNMENT * STACK_ALIGNMENT
    return address, struct.pack(f"<{len(words)}Q", *words)


# ThreadHandle of Modules/_threadmodule.c, 3.13 on: two list nodes, then these. In 3.13 (gh-114271) it took over from the
# lock _tstate_lock, which PyThreadState_Clear releases.
HANDLE_IDENT, HANDLE_OS_HANDLE, HANDLE_STATE, HANDLE_EXITING, HANDLE_SIZE = 32, 40, 48, 57, 72
HANDLE_NAMES = ("_os_thread_handle", "_handle")  # of class Thread: 3.14 on, 3.13
RUNNING = struct.pack("<iiBB", 1, 3, 0, 0)  # has_os_handle, THREAD_HANDLE_RUNNING, not locked, not exiting


def find_handle(target: Target, examination: Examination) -> int | None:
    """Return the address of the thread's ThreadHandle; None before 3.13, and for a thread that ``threading`` did not start.

    Raises:
        UnsupportedPython: there is one that is not as we know it.
    """
    if target.runtime.layout.version < (3, 13):
        return None
    state = examination.sighting.state
    objects = ObjectReader(target.runtime.layout)
    try:
        for key, thread in walk_alone(target.memory, read_active(objects, state.interpreter)):
            if objects.parse_int(target.memory.read(key, objects.int_size)) == state.ident:
                found = walk_alone(target.memory, objects.read_attributes(thread, *HANDLE_NAMES))
                if not found:
                    break
                (wrapper,) = found.values()
                pointer = target.memory.read(wrapper + target.runtime.layout.pyobject.size, 8)
                handle = int.from_bytes(pointer, "little")
                content = target.memory.read(handle, HANDLE_SIZE)
                idents = struct.unpack_from("<QQ", content, HANDLE_IDENT)
                if idents != (state.ident, state.ident) or not content.startswith(RUNNING, HANDLE_STATE):
                    break
                return handle
        else:
            return None
    except BadAddress:
        pass
    raise UnsupportedPython(f"the handle of thread {examination.sighting.thread.tid} is not as we know it")


def _send(
    session: Session, pid: int, tid: int, start_time: int, call: SystemCall, way_out: WayOut | None
) -> Applied | None:
    place = Place(call.number, call.stack_pointer, call.program_counter)
    with session.custody(pid, tid):
        done = commands.terminate(session, pid, tid, start_time, place, way_out)
    return None if done.moved else Applied(Effect.EXITING, done.stopped_seconds, session.version, in_system_call=True)


def _await_place(pid: int, tid: int, find_obstacle: Obstacle, deadline: float) -> SystemCall:
    while True:
        call = read_system_call(pid, tid)
        reason = "it runs" if call is None else find_obstacle(pid, tid, call)
        if call is not None and reason is None:
            return call
        if time.monotonic() >= deadline:
            raise Refused(f"thread {tid} cannot be dropped where it is: {reason}")
        time.sleep(POLL_SECONDS)


def _covers(pid: int, path: str, address: int) -> bool:
    with open(f"/proc/{pid}/maps", errors="surrogateescape") as maps:
        for line in maps:
            fields = line.rstrip("\n").split(maxsplit=5)
            start, end = (int(word, 16) for word in fields[0].split("-"))
            if start <= address < end:
                return fields[5:] == [path] and "x" in fields[1]
    return False


def _find_pieces(target: Target) -> Pieces:
    executable = [
        (load.address + image.bias, load.memory_size)
        for image in iterate_images(target.pid)
        if image.bias == target.runtime.image.bias or "libc." in os.path.basename(image.file.path)
        for load in image.elf.loads
        if load.flags & 1
    ]
    return find_pieces(target.memory, executable)
