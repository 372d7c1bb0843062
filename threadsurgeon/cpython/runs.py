"""Which Python frames each eval loop on a thread's native stack runs.

Up to 3.10 each eval loop runs one frame. Since 3.11 (bpo-45829) a Python function that calls another stays in the same loop.
What tells one loop's frames from the next one's lies in the native frame of the loop itself: its place there says which
native frame it is, whatever the code is called.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from threadsurgeon.cpython.eval_loop import EvalLoop
from threadsurgeon.cpython.frames import RawFrame
from threadsurgeon.cpython.layout import Layout
from threadsurgeon.linux.memory import BadAddress, Memory
from threadsurgeon.linux.unwind import CALLEE_SAVED, RSP, NativeFrame
from threadsurgeon.model.native import NativeCall
from threadsurgeon.model.threads import Frame

MAX_RUNS = 10_000
MAX_WINDOW = 1 << 16

_pointer = struct.Struct("<Q").unpack_from


class Run(NamedTuple):
    """What one eval loop runs, innermost frame first.

    ``anchor``: up to 3.10 the address of the frame, which the loop keeps in a register or on its stack; later that of
    a variable in the loop's own native frame, its ``_PyCFrame`` (3.11) or its entry frame (3.12 on).
    """

    anchor: int
    frames: tuple[Frame, ...]


def read_runs(
    memory: Memory, layout: Layout, thread_state: int, frames: Sequence[Frame], raw: Sequence[RawFrame]
) -> list[Run]:
    """Return the runs of a thread that stands still, innermost first; ``frames`` and ``raw`` are the same frames twice.

    Raises:
        BadAddress: its frames lead nowhere.
    """
    if layout.frame_object is not None:
        return [Run(each.address, (frame,)) for frame, each in zip(frames, raw, strict=True)]
    if layout.version < (3, 12):
        return _read_c_frames(memory, layout, thread_state, frames, raw)
    assert layout.interpreter_frame is not None
    link = layout.interpreter_frame.previous
    # The entry frame is the caller of the outermost frame that a loop runs; no walk over Python frames shows it.
    callers = memory.read_many([(each.address + link, 8) for each in raw])
    runs: list[Run] = []
    first = 0
    for index, caller in enumerate(callers):
        if caller is None:
            raise BadAddress(raw[index].address + link, 8)
        (address,) = _pointer(caller)
        if index + 1 == len(raw) or address != raw[index + 1].address:
            runs.append(Run(address, tuple(frames[first : index + 1])))
            first = index + 1
    return runs


def _read_c_frames(
    memory: Memory, layout: Layout, thread_state: int, frames: Sequence[Frame], raw: Sequence[RawFrame]
) -> list[Run]:
    """3.11: each loop has a ``_PyCFrame`` that names its innermost frame, and behind that the caller's ``_PyCFrame``."""
    assert layout.cframe is not None
    assert layout.thread_state.cframe is not None
    innermost = layout.cframe.current_frame
    numbers = {each.address: number for number, each in enumerate(raw)}
    (address,) = _pointer(memory.read(thread_state + layout.thread_state.cframe, 8))
    starts: list[tuple[int, int]] = []
    while address and len(starts) < MAX_RUNS:
        current, previous = struct.unpack("<QQ", memory.read(address + innermost, 16))
        if current not in numbers:  # the root, part of the thread state: nothing runs there
            break
        starts.append((address, numbers[current]))
        address = previous
    ends = [number for _, number in starts[1:]] + [len(raw)]
    return [Run(place, tuple(frames[first:end])) for (place, first), end in zip(starts, ends, strict=True)]


def merge(
    native: Iterable[tuple[NativeFrame, NativeCall]], runs: Sequence[Run], memory: Memory, layout: Layout, eval_loop: EvalLoop
) -> tuple[list[Frame | NativeCall], list[Run]]:
    """Put the Python frames in the place of the eval loops that run them, innermost first; return those left over as well.

    ``memory`` holds the stack as it was when the native frames were unwound.
    """
    merged: list[Frame | NativeCall] = []
    waiting = list(reversed(runs))
    for frame, call in native:
        if waiting and _is_run_by(frame, waiting[-1], memory, layout, eval_loop):
            merged += waiting.pop().frames
        else:
            merged.append(call)
    return merged, waiting[::-1]


def _is_run_by(frame: NativeFrame, run: Run, memory: Memory, layout: Layout, eval_loop: EvalLoop) -> bool:
    stack_pointer = frame.registers[RSP] or 0
    if layout.frame_object is None:
        return stack_pointer <= run.anchor < frame.cfa
    # A frame's address is in many places: only the eval loop counts.
    if frame.code not in eval_loop:
        return False
    if any(frame.registers[register] == run.anchor for register in CALLEE_SAVED):
        return True
    size = frame.cfa - stack_pointer
    if not 0 < size <= MAX_WINDOW:
        return False
    try:
        return run.anchor in array("Q", memory.read(stack_pointer, size // 8 * 8))
    except BadAddress:
        return False
