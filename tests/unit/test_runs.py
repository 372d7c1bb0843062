"""Python frames stand where the eval loop runs them, and nothing is placed by guess."""

import pytest

from tests.unit.fake_memory import FakeMemory
from threadsurgeon.cpython.eval_loop import EvalLoop
from threadsurgeon.cpython.frames import RawFrame
from threadsurgeon.cpython.layout import find_layout
from threadsurgeon.cpython.runs import Run, merge, read_runs
from threadsurgeon.linux.unwind import RBX, RSP
from threadsurgeon.model.native import NativeCall
from threadsurgeon.model.threads import Frame

BASE = 0x7F00_0000_0000
STATE, HEAP = 0x5500_0000_0000, 0x5600_0000_0000
FRAMES = [Frame(name, "f.py", 1) for name in "abcd"]


class Loop:
    """A stretch of code, known by where it starts."""

    def __init__(self, start):
        self.start = start


class Native:
    """A native frame of 256 bytes, the ``number``-th from the innermost."""

    def __init__(self, number, code=None, **registers):
        values = [0] * 17
        values[RSP] = BASE + number * 256
        values[RBX] = registers.get("rbx", 0)
        self.registers = tuple(values)
        self.cfa = BASE + (number + 1) * 256
        self.code = code
        self.call = NativeCall(f"n{number}", "/lib/c.so", number + 1)


def names(merged):
    return [frame.function for frame in merged]


def merge_all(native, runs, version, memory=None, loop=()):
    layout = find_layout(version, debug=False, free_threaded=False)
    return merge([(one, one.call) for one in native], runs, memory or FakeMemory(), layout, EvalLoop(loop))


def test_runs_stand_in_place_of_their_loops():
    """Each in the native frame that its variable lies in; the others stay as they are."""
    runs = [Run(BASE + 256 + 8, tuple(FRAMES[:2])), Run(BASE + 3 * 256 + 248, tuple(FRAMES[2:]))]
    merged, left = merge_all([Native(number) for number in range(5)], runs, (3, 12))

    assert names(merged) == ["n0", "a", "b", "n2", "c", "d", "n4"]
    assert left == []


def test_what_has_no_place_is_left_over():
    """Where the native stack could not be followed to the loop, and all that is further out."""
    runs = [Run(BASE + 8, (FRAMES[0],)), Run(BASE + 9 * 256, (FRAMES[1],)), Run(BASE + 512, (FRAMES[2],))]
    merged, left = merge_all([Native(number) for number in range(4)], runs, (3, 14))

    assert names(merged) == ["a", "n1", "n2", "n3"]
    assert left == runs[1:]


def test_old_loops_are_known_by_their_code_and_their_frame():
    """To 3.10 a frame's address is in many places: only the eval loop's own counts, in a register or on its stack."""
    loop = Loop(0x1000)
    memory = FakeMemory({BASE: bytes(256 * 5)})
    memory.write_pointer(BASE + 16, HEAP)  # in the innermost, which is no loop
    memory.write_pointer(BASE + 3 * 256 + 64, HEAP + 8)
    inner = [Native(0, Loop(1)), Native(1, loop, rbx=HEAP), Native(2, Loop(2), rbx=HEAP + 8)]
    native = [*inner, Native(3, loop), Native(4, loop)]
    runs = [Run(HEAP, (FRAMES[0],)), Run(HEAP + 8, (FRAMES[1],))]
    merged, left = merge_all(native, runs, (3, 8), memory, [loop])

    assert names(merged) == ["n0", "a", "n2", "b", "n4"]
    assert left == []


def raw(count):
    return [RawFrame(HEAP + number * 512, 1, 1) for number in range(count)]


@pytest.mark.parametrize("version", [(3, 12), (3, 13), (3, 14), (3, 15)])
def test_entry_frames_end_a_run(version):
    """Since 3.12 the caller of a loop's outermost frame is an entry frame on the native stack."""
    layout = find_layout(version, debug=False, free_threaded=False)
    memory = FakeMemory()
    for frame, caller in zip(raw(4), [HEAP + 512, BASE + 8, HEAP + 3 * 512, BASE + 520], strict=True):
        memory.write_pointer(frame.address + layout.interpreter_frame.previous, caller)

    runs = read_runs(memory, layout, STATE, FRAMES, raw(4))

    assert runs == [Run(BASE + 8, tuple(FRAMES[:2])), Run(BASE + 520, tuple(FRAMES[2:]))]


def test_c_frames_begin_a_run():
    """In 3.11 each loop's _PyCFrame names its innermost frame; the last one, in the thread state, names none."""
    layout = find_layout((3, 11), debug=False, free_threaded=False)
    memory = FakeMemory()
    root = STATE + 4096
    memory.write_pointer(STATE + layout.thread_state.cframe, BASE + 8)
    for place, frame, previous in [(BASE + 8, HEAP, BASE + 520), (BASE + 520, HEAP + 512, root), (root, 0, 0)]:
        memory.write(place + layout.cframe.current_frame, frame.to_bytes(8, "little") + previous.to_bytes(8, "little"))

    runs = read_runs(memory, layout, STATE, FRAMES, raw(4))

    assert runs == [Run(BASE + 8, (FRAMES[0],)), Run(BASE + 520, tuple(FRAMES[1:]))]


def test_old_frames_are_a_run_each():
    """To 3.10."""
    layout = find_layout((3, 9), debug=False, free_threaded=False)

    assert read_runs(FakeMemory(), layout, STATE, FRAMES, raw(4)) == [
        Run(one.address, (frame,)) for one, frame in zip(raw(4), FRAMES, strict=True)
    ]
