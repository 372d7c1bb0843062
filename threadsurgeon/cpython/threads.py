"""Walk interpreters and thread states.

The target runs meanwhile: every walk is bounded, checked, and begun again when torn.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from threadsurgeon.cpython.layout import GilRuntimeState, Layout
from threadsurgeon.cpython.runtime import Runtime
from threadsurgeon.errors import UnreadableTarget
from threadsurgeon.linux.memory import BadAddress, Memory

MAX_INTERPRETERS = 10_000
MAX_THREADS = 1_000_000
TRIES = 8
_POINTER = 8

_pointer = struct.Struct("<Q").unpack_from
_signed = struct.Struct("<q").unpack_from
_signed32 = struct.Struct("<i").unpack_from


class Interpreter(NamedTuple):
    """A ``PyInterpreterState``. ``gil`` is the address of the ``struct _gil_runtime_state`` that its threads share."""

    address: int
    id: int
    gil: int
    modules: int


class ThreadState(NamedTuple):
    """A ``PyThreadState``. ``native_thread_id`` is the TID that the target itself sees; None before 3.11."""

    address: int
    interpreter: Interpreter
    ident: int
    native_thread_id: int | None
    content: bytes


class Gil(NamedTuple):
    """A GIL at one moment. ``holder`` is the thread state that holds it, 0 while it is free.

    ``enabled``: there is one. Free-threaded builds have none, but for PYTHON_GIL=1 or a C extension that asks for it.
    """

    address: int
    holder: int
    switches: int
    enabled: bool = True


def is_waiting_to_attach(memory: Memory, layout: Layout, state: ThreadState, futex: int) -> bool:
    """Say whether the thread, which sleeps on that futex, waits for the world to go on, stopped as for a garbage collection.

    In a build without a GIL (3.13 on) it sleeps on a semaphore of its own then, in a ``struct wait_entry``, right behind the
    address of what it waits for: the state of its thread state (tstate_wait_attach in pystate.c, parking_lot.c).
    """
    offset = layout.thread_state.state
    if not layout.free_threaded or offset is None:
        return False
    try:
        return bool(_pointer(memory.read(futex - _POINTER, _POINTER))[0] == state.address + offset)
    except BadAddress:
        return False


def read_finalizing(memory: Memory, runtime: Runtime) -> bool:
    """Say whether the interpreter is shutting down (``Py_FinalizeEx`` runs)."""
    return memory.read(runtime.address + runtime.layout.runtime_state.finalizing, 8) != bytes(8)


def read_main_ident(memory: Memory, runtime: Runtime) -> int:
    """Return the ident of the thread that Python calls its main thread."""
    return int(_pointer(memory.read(runtime.address + runtime.layout.runtime_state.main_thread, 8))[0])


def list_interpreters(memory: Memory, runtime: Runtime) -> list[Interpreter]:
    """Return the interpreters, newest first.

    Raises:
        UnreadableTarget: the list cannot be read, or does not end.
    """
    state, layout = runtime.layout.runtime_state, runtime.layout.interpreter_state
    try:
        (address,) = _pointer(memory.read(runtime.address + state.interpreters_head, 8))
        interpreters: list[Interpreter] = []
        while address:
            if len(interpreters) == MAX_INTERPRETERS:
                raise UnreadableTarget("the list of interpreters does not end")
            if layout.ceval_gil is not None:
                (gil,) = _pointer(memory.read(address + layout.ceval_gil, 8))
            else:
                assert state.ceval_gil is not None
                gil = runtime.address + state.ceval_gil
            interpreters.append(
                Interpreter(
                    address=address,
                    id=_signed(memory.read(address + layout.id, 8))[0],
                    gil=gil,
                    modules=_pointer(memory.read(address + layout.imports_modules, 8))[0],
                )
            )
            (address,) = _pointer(memory.read(address + layout.next, 8))
    except BadAddress as error:
        raise UnreadableTarget(f"the list of interpreters leads to unreadable memory: {error}") from None
    return interpreters


def list_thread_states(memory: Memory, runtime: Runtime, interpreters: list[Interpreter]) -> list[ThreadState]:
    """Return all thread states. Those that come or go during the walk may or may not be among them.

    Raises:
        UnreadableTarget: a list changed under every try, or does not end.
    """
    return [state for interpreter in interpreters for state in _walk_interpreter(memory, runtime, interpreter)]


def _walk_interpreter(memory: Memory, runtime: Runtime, interpreter: Interpreter) -> list[ThreadState]:
    for _ in range(TRIES):
        states = _walk_once(memory, runtime, interpreter)
        if states is not None:
            return states
    raise UnreadableTarget(f"the thread states of interpreter {interpreter.id} changed under each of {TRIES} looks")


def _walk_once(memory: Memory, runtime: Runtime, interpreter: Interpreter) -> list[ThreadState] | None:
    """Return the thread states of an interpreter, None if the list was torn."""
    layout = runtime.layout.thread_state
    states: list[ThreadState] = []
    seen: set[int] = set()
    try:
        (address,) = _pointer(
            memory.read(interpreter.address + runtime.layout.interpreter_state.threads_head, 8)
        )
        while address:
            state = read_thread_state(memory, runtime, interpreter, address)
            if state is None or address in seen or len(states) == MAX_THREADS:
                return None
            # A state that was freed and made anew meanwhile belongs to the interpreter as well, and leads elsewhere. Before
            # the first there may be a newer one by now.
            if states and _pointer(state.content, layout.prev)[0] != states[-1].address:
                return None
            seen.add(address)
            states.append(state)
            (address,) = _pointer(state.content, layout.next)
    except BadAddress:
        return None
    return states


def read_thread_state(memory: Memory, runtime: Runtime, interpreter: Interpreter, address: int) -> ThreadState | None:
    """Return the thread state at the address, None if there is none (any more) that belongs to the interpreter."""
    layout = runtime.layout.thread_state
    content = memory.read(address, layout.size)
    if _pointer(content, layout.interp)[0] != interpreter.address:
        return None
    native = None if layout.native_thread_id is None else _pointer(content, layout.native_thread_id)[0]
    return ThreadState(address, interpreter, _pointer(content, layout.thread_id)[0], native, content)


def refresh_thread_state(memory: Memory, runtime: Runtime, state: ThreadState) -> ThreadState | None:
    """Return the same thread's state as it is now, None if the thread has left it."""
    try:
        fresh = read_thread_state(memory, runtime, state.interpreter, state.address)
    except BadAddress:
        return None
    return fresh if fresh is not None and fresh.ident == state.ident else None


def read_gil(memory: Memory, layout: GilRuntimeState, address: int) -> Gil:
    """Return who holds the GIL at this moment."""
    content = memory.read(address, layout.size)
    locked = _signed32(content, layout.locked)[0] == 1  # -1: not created yet
    holder = _pointer(content, layout.last_holder)[0] if locked else 0
    enabled = layout.enabled is None or _signed32(content, layout.enabled)[0] != 0
    return Gil(address, holder, _pointer(content, layout.switch_number)[0], enabled)
