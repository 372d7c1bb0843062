"""``-ts-hold-still`` and ``-ts-let-be``: a thread stands still while the session reads its stack. Nothing is changed in it."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import gdb

from .command import command
from .cut_frames import REGISTERS
from .guard import attached
from .machine import read_register
from .victim import check_thread

MASK = (1 << 64) - 1

_undo: ExitStack | None = None
_began = 0.0


@command("-ts-hold-still")
def hold_still(*, pid: int, tid: int, start_time: int) -> dict[str, Any]:
    """Attach to the thread, keep it stopped, and tell its registers; ``thread_pointer`` is its pthread_t."""
    global _undo, _began
    if _undo is not None:
        raise gdb.GdbError("a thread is held already")
    _began = time.monotonic()
    with ExitStack() as undo:
        undo.enter_context(attached(tid))
        check_thread(pid, tid, start_time)
        registers = [read_register(name) & MASK for name in REGISTERS]
        thread_pointer = read_register("fs_base") & MASK
        _undo = undo.pop_all()
    return {"registers": registers, "thread_pointer": thread_pointer}


@command("-ts-let-be")
def let_be() -> dict[str, Any]:
    """Detach. The thread goes on as if nothing had been."""
    global _undo
    if _undo is None:
        raise gdb.GdbError("no thread is held")
    undo, _undo = _undo, None
    undo.close()
    return {"stopped_seconds": time.monotonic() - _began}
