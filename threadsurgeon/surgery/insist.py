"""Technique 3, insist: for code that catches every exception. Raise again where it was caught; then leave the handlers out.

An exception that was caught is followed by another one that meets the handler itself. Code that catches that too, again
and again, is not asked any more: when the exception passes its frame, CPython looks for a handler and finds none.
``finally`` and ``with`` blocks of that frame are handlers as well and do not run: which ones is in the result. What comes
after the frame is untouched, and so is ``threading``'s own bookkeeping: nothing is raised there.

How the look-up finds nothing: the handlers of 3.8 to 3.10 are blocks in the frame, of which it has its own. From 3.11 on
they are a table that all calls of the function share; there the thread is stopped the moment it has loaded the table's
address into a register, by a hardware watchpoint, and the register is made to point to a copy without handlers, below the
thread's own stack. No memory that anybody else looks at changes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from threadsurgeon.cpython.frames import FrameReader, RawFrame
from threadsurgeon.cpython.layout import Layout
from threadsurgeon.cpython.objects import ObjectReader
from threadsurgeon.debugger import commands
from threadsurgeon.debugger.commands import Pressed
from threadsurgeon.debugger.cut_frames import Hand
from threadsurgeon.debugger.session import Session
from threadsurgeon.errors import Refused
from threadsurgeon.inventory import Target
from threadsurgeon.linux.perf import perf_events_in_use
from threadsurgeon.model.threads import Frame
from threadsurgeon.surgery.async_exception import withdraw_after_failure
from threadsurgeon.surgery.cut_frames import Cutter, Site
from threadsurgeon.surgery.interrupt import CHECKS, RAISE, find_return_minus_one, refuse_shadow_stack
from threadsurgeon.surgery.plan import Examination
from threadsurgeon.surgery.rest import Rest
from threadsurgeon.surgery.technique import Applied, Effect, Victim

TRACE_BACK = "PyTraceBack_Here"
MOST_HITS = 10_000
# How often code may catch it before its handlers are left out.
GENTLE = 3

# Who drops an exception that no Python code has caught, and what helps.
DROPS = "the C code that called it, as for __del__ and callbacks: only --force ends that, without unwinding"

_EFFECTS = {
    "unwound": Effect.DELIVERED,
    "exited": Effect.DELIVERED,
    "caught": Effect.CAUGHT,
    "dropped": Effect.CAUGHT,
    "no-check": Effect.NO_CHECK,
}

# Opcodes (dis.opmap). Every handler begins with this instruction.
PUSH_EXC_INFO = {(3, 11): 35, (3, 12): 35, (3, 13): 33, (3, 14): 32, (3, 15): 30}

# Where the exception is to arrive, and nothing more is raised, by file and function. "end": it is dealt with there.
_ENDS = {
    ("threading.py", "_bootstrap_inner"): "end",
    ("threading.py", "_bootstrap"): "end",
    ("threading.py", "run"): "pass",  # a subclass's run() may have called it
    ("concurrent/futures/thread.py", "run"): "end",
    ("concurrent/futures/thread.py", "_worker"): "end",
}


def insist(
    session: Session,
    examination: Examination,
    victim: Victim,
    deadline_seconds: float,
    *,
    site: Site | None = None,
    gentle: int = GENTLE,
) -> Applied:
    """Raise in the thread until it unwinds down to where threads begin, or the time is over.

    Only for a thread that is known to catch exceptions. On every way out nothing is pending and no breakpoint is left. Where
    it sits in C code that never checks for signals, that is cut, if there is a ``site``; the effect is ``NO_CHECK`` if not.

    Raises:
        UnsupportedPython: a function that we need is not there.
        Refused: the thread has a shadow stack.
        Otherwise as ``raise_async``.
    """
    target = examination.target
    refuse_shadow_stack(victim)
    frames = describe_frames(target, victim)
    options = {
        "trace_back": target.runtime.symbol(TRACE_BACK),
        "checks": {name: victim.functions[name] for name in CHECKS if name in victim.functions},
        "set_none": victim.functions[RAISE],
        "return_minus_one": find_return_minus_one(target.memory, victim.functions[RAISE]),
        "ends": find_ends(examination.sighting.raw_frames, examination.sighting.thread.frames),
        "codes": describe_codes(target.runtime.layout),
        "gentle": gentle,
        "most_hits": MOST_HITS,
    }
    deadline = time.monotonic() + deadline_seconds
    cut: list[str] = []
    obstacle = None
    try:
        with perf_events_in_use(), session.custody(victim.pid, victim.tid):
            commands.insist(session, victim, frames, options)
            while True:
                rest = Rest(target, examination.sighting)
                stop = session.wait_for_stop(max(0.0, deadline - time.monotonic()), until=rest.has_come)
                if (stop or session.interrupt()).thread_ended or time.monotonic() >= deadline:
                    break
                pressed = commands.press(session, victim, rested=stop is None)
                if pressed is Pressed.DEAF and site is not None:
                    try:
                        cut += _cut(session, victim, site, deadline)
                    except Refused as error:
                        obstacle = f"what it calls could not be cut again: {error}"
                        break
                    pressed = commands.press(session, victim, rested=False)
                if pressed is not Pressed.RUNNING:
                    break
            relented = commands.relent(session, victim)
    except BaseException:
        withdraw_after_failure(victim)
        raise
    skipped = _resolve(target, relented.skipped)
    if relented.result == "dropped" and skipped:
        obstacle = f"what is raised in {skipped[-1]} is dropped by {DROPS}"
    return Applied(
        Effect.CAUGHT if obstacle else _EFFECTS[relented.result],
        relented.stopped_seconds,
        session.version,
        armed_seconds=relented.armed_seconds,
        rounds=relented.rounds,
        skipped=skipped,
        cut=tuple(cut),
        obstacle=obstacle,
    )


def _cut(session: Session, victim: Victim, site: Site, deadline: float) -> tuple[str, ...]:
    hand = Hand(session, victim)
    made = Cutter(victim, site, hand, hand.look()).perform(deadline)
    return () if made is None else made.frames


def describe_frames(target: Target, victim: Victim) -> dict[str, Any]:
    """Return the offsets that the other end needs to read the thread's current frame: see ``gdb_scripts/frames.py``."""
    layout = target.runtime.layout
    state, frame_object, frame = layout.thread_state, layout.frame_object, layout.interpreter_frame
    if frame_object is not None:
        assert state.frame is not None
        return {
            "path": [victim.thread_state + state.frame],
            "frame_object": None,
            "previous": frame_object.f_back,
            "code": frame_object.f_code,
            "instruction": frame_object.f_lasti,
            "instruction_size": 4,
            "owner": None,
            "blocks": [frame_object.f_iblock, frame_object.f_blockstack],
        }
    assert frame is not None
    if state.cframe is not None:
        assert layout.cframe is not None
        path = [victim.thread_state + state.cframe, layout.cframe.current_frame]
    else:
        assert state.current_frame is not None
        path = [victim.thread_state + state.current_frame]
    return {
        "path": path,
        "frame_object": frame.frame_obj,
        "previous": frame.previous,
        "code": frame.executable,
        "instruction": frame.instr_ptr,
        "instruction_size": 8,
        "owner": frame.owner,
        "blocks": None,
    }


def find_ends(raw_frames: Sequence[RawFrame], frames: Sequence[Frame]) -> dict[int, str]:
    """Return the code objects on the stack at which nothing more is to be raised."""
    return {
        raw.code: kind
        for raw, frame in zip(raw_frames, frames, strict=True)
        for (file, function), kind in _ENDS.items()
        if frame.function == function and frame.file.endswith(f"/{file}")
    }


def describe_codes(layout: Layout) -> dict[str, int] | None:
    """Return what the other end needs to read exception tables: see ``gdb_scripts/code_objects.py``; None before 3.11."""
    code = layout.code_object
    if code.co_exceptiontable is None:
        return None
    assert code.co_code_adaptive is not None
    return {
        "co_exceptiontable": code.co_exceptiontable,
        "co_code_adaptive": code.co_code_adaptive,
        "ob_refcnt": layout.pyobject.ob_refcnt,
        "ob_size": layout.bytes_object.ob_size,
        "ob_sval": layout.bytes_object.ob_sval,
        "push_exc_info": PUSH_EXC_INFO[layout.version],
    }


def _resolve(target: Target, skipped: Sequence[Sequence[int]]) -> tuple[Frame, ...]:
    """Name the frames whose handlers were left out; those whose code is gone are left out as well."""
    reader = FrameReader(target.memory, ObjectReader(target.runtime.layout), target.runtime.symbol("PyCode_Type"))
    stacks = reader.resolve([RawFrame(*raw)] for raw in skipped)
    return tuple(dict.fromkeys(frame for stack in stacks for frame in stack or ()))
