"""Where in the target the techniques find what they need."""

from __future__ import annotations

import re
import struct

from threadsurgeon.errors import ThreadsurgeonError
from threadsurgeon.inventory import Target
from threadsurgeon.surgery.plan import Examination
from threadsurgeon.surgery.technique import Victim

CHECKS = ("PyErr_CheckSignals", "Py_MakePendingCalls")
# Locks of 3.12 and 3.13 call this one directly.
PRIVATE_CHECKS = ("_PyEval_MakePendingCalls",)
ASYNC_EXCEPTION_BIT = 1 << 3  # _PY_ASYNC_EXCEPTION_BIT in tstate->eval_breaker, 3.13 on
# PyErr_SetNone cannot make an instance of these: they want arguments, and a TypeError would be raised in their place.
NEEDS_ARGUMENTS = ("UnicodeDecodeError", "UnicodeEncodeError", "UnicodeTranslateError", "BaseExceptionGroup")


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
