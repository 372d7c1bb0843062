"""The ThreadHandle by which ``join()`` waits for a thread, and the interpreter at its end: CPython 3.13 on (gh-114271).

Before that it is the lock ``_tstate_lock``, which PyThreadState_Clear gives back by itself.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from threadsurgeon.cpython.objects import ObjectReader
from threadsurgeon.cpython.reading import walk_alone
from threadsurgeon.cpython.runtime import Runtime
from threadsurgeon.cpython.thread_objects import read_active
from threadsurgeon.cpython.threads import ThreadState
from threadsurgeon.errors import UnsupportedPython
from threadsurgeon.linux.memory import BadAddress, Memory

SINCE = (3, 13)
ATTRIBUTES = ("_os_thread_handle", "_handle")  # of threading.Thread: 3.14 on, 3.13
# Modules/_threadmodule.c, 3.13 to 3.15: two list nodes, ident, os_handle, has_os_handle, state, mutex, thread_is_exiting.
_IDENT, _STATE, EXITING, _SIZE = 32, 48, 57, 72
_RUNNING = struct.pack("<ii", 1, 3)  # has_os_handle, THREAD_HANDLE_RUNNING
_NOT_SET = (0, 2)  # a PyEvent that nobody, or somebody, waits for


@dataclass(frozen=True, slots=True)
class ThreadHandle:
    """Addresses: of the ident, and of the event that is set when the thread is about to end."""

    ident: int
    exiting: int


def find_thread_handle(memory: Memory, runtime: Runtime, state: ThreadState) -> ThreadHandle | None:
    """Return the handle of a running thread; None for a thread that ``threading`` did not start.

    Raises:
        UnsupportedPython: there is one that is not as we know it.
    """
    objects = ObjectReader(runtime.layout)
    try:
        for key, thread in walk_alone(memory, read_active(objects, state.interpreter)):
            if objects.parse_int(memory.read(key, objects.int_size)) != state.ident:
                continue
            found = walk_alone(memory, objects.read_attributes(thread, *ATTRIBUTES))
            for wrapper in found.values():
                address = int.from_bytes(memory.read(wrapper + runtime.layout.pyobject.size, 8), "little")
                content = memory.read(address, _SIZE)
                idents = struct.unpack_from("<QQ", content, _IDENT)
                running = content.startswith(_RUNNING, _STATE) and content[EXITING] in _NOT_SET
                if running and idents == (state.ident, state.ident):
                    return ThreadHandle(address + _IDENT, address + EXITING)
            break
        else:
            return None
    except BadAddress:
        pass
    raise UnsupportedPython(f"the handle of thread {state.ident:#x} is not as we know it")
