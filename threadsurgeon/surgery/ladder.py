"""The techniques in their order, gentlest first: what each is used for, and what it may leave behind."""

from __future__ import annotations

from threadsurgeon.model import Rung

NOTHING = "nothing: Python unwinds, finally blocks run, with blocks give their locks back"

RUNGS = {
    rung.technique: rung
    for rung in (
        Rung("raise", "it runs bytecode, or is about to: it notices a pending exception by itself", NOTHING),
        Rung("interrupt", "it waits in a system call, or computes in C code that checks for signals", NOTHING),
        Rung("signal", "it is the main thread: SIGINT raises KeyboardInterrupt there, as Ctrl-C does", NOTHING),
    )
}
