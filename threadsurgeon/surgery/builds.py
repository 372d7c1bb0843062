"""What may be done in builds without a GIL (PEP 703), and with another C library than glibc: what was shown on real processes.

Without a GIL: *raise* needs none: the thread is stopped, and of the bits that others set meanwhile in its ``eval_breaker`` the
one that matters, that it should stop for the collector, is set again every millisecond (park_detached_threads in pystate.c of
3.13 and 3.14); references to merge are merged with the next ones, or when it ends (brc.c). *interrupt* and *insist* act where
the thread is attached to the interpreter, at functions that it called itself.
"""

from __future__ import annotations

from threadsurgeon.cpython.runtime import Runtime
from threadsurgeon.errors import Refused
from threadsurgeon.inventory import Target
from threadsurgeon.linux.mappings import uses_musl

SHOWN = ((3, 13), (3, 14))
WITHOUT_GIL = {
    # Its critical sections are a list on the C stack, which the cut frames would leave dangling. any() and sum() on 3.13.5t:
    # the process died.
    "cut": "C code holds the locks of the objects that it works on, and would never give them back",
    "terminate": "the locks of the objects that it works on would stay locked",
}
WITH_MUSL = {
    # __pthread_exit takes the thread off a list under a lock that the kernel opens at the thread's end (musl 1.2).
    "terminate": "musl would go on listing the thread, and a lock of it could be opened that another thread holds",
}


def refuse_unproven_version(runtime: Runtime) -> None:
    """Refuse a free-threaded build of a version on which operating was never seen to work.

    Raises:
        Refused: it is one.
    """
    if runtime.layout.free_threaded and runtime.layout.version not in SHOWN:
        shown = ", ".join(f"{major}.{minor}" for major, minor in SHOWN)
        raise Refused(f"CPython {runtime.version} is a free-threaded build: operating is known to work on {shown} only")


def is_allowed(target: Target, technique: str) -> bool:
    """Say whether the technique may be used on this process."""
    return _find_reason(target, technique) is None


def refuse_technique(target: Target, technique: str) -> None:
    """Refuse a technique that would harm this process.

    Raises:
        Refused: it would.
        NoSuchProcess: the process ended.
    """
    reason = _find_reason(target, technique)
    if reason is not None:
        raise Refused(reason)


def refuse_musl(target: Target, technique: str) -> None:
    """Refuse what musl does not allow, also of threads that have nothing to do with Python; errors as above."""
    reason = _find_reason_of_musl(target, technique)
    if reason is not None:
        raise Refused(reason)


def _find_reason(target: Target, technique: str) -> str | None:
    if target.runtime.layout.free_threaded and technique in WITHOUT_GIL:
        return f"CPython {target.runtime.version} is a free-threaded build: {WITHOUT_GIL[technique]}"
    return _find_reason_of_musl(target, technique)


def _find_reason_of_musl(target: Target, technique: str) -> str | None:
    if technique in WITH_MUSL and uses_musl(target.pid):
        return f"process {target.pid} runs with musl as its C library: {WITH_MUSL[technique]}"
    return None
