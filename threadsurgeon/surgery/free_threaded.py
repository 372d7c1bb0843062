"""What may be done in builds without a GIL (PEP 703): what was shown on real processes, and nothing else.

*raise* needs no GIL: the thread is stopped, and of the bits that others set meanwhile in its ``eval_breaker`` the one that
matters, that it should stop for the collector, is set again every millisecond (park_detached_threads in 3.13's pystate.c).
*interrupt* and *insist* act where the thread is attached to the interpreter, at functions that it called by itself.
"""

from __future__ import annotations

from threadsurgeon.cpython.runtime import Runtime
from threadsurgeon.errors import Refused

SHOWN = ((3, 13),)
REFUSED = {
    # Its critical sections are a list on the C stack, which the cut frames would leave dangling. any() and sum() on 3.13.5t:
    # the process died.
    "cut": "C code holds the locks of the objects that it works on, and would never give them back",
    "terminate": "the locks of the objects that it works on would stay locked",
}


def refuse_unproven_version(runtime: Runtime) -> None:
    """Refuse a free-threaded build of a version on which operating was never seen to work.

    Raises:
        Refused: it is one.
    """
    if runtime.layout.free_threaded and runtime.layout.version not in SHOWN:
        shown = ", ".join(f"{major}.{minor}" for major, minor in SHOWN)
        raise Refused(f"CPython {runtime.version} is a free-threaded build: operating is known to work on {shown} only")


def is_allowed(runtime: Runtime, technique: str) -> bool:
    """Say whether the technique may be used on this build."""
    return not runtime.layout.free_threaded or technique not in REFUSED


def refuse_technique(runtime: Runtime, technique: str) -> None:
    """Refuse a technique that would harm a free-threaded build.

    Raises:
        Refused: it would.
    """
    if not is_allowed(runtime, technique):
        raise Refused(f"CPython {runtime.version} is a free-threaded build: {REFUSED[technique]}")
