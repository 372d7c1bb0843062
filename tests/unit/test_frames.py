"""Python stacks: of our own threads as Python itself says, and of fake ones whatever memory holds."""

import random
import struct
import sys
import threading
import time
import traceback

import pytest

from threadsurgeon.cpython.frames import FIRST_INTERNAL_OWNER, MAX_FRAMES, FrameReader, RawFrame
from threadsurgeon.cpython.objects import ObjectReader
from threadsurgeon.cpython.reading import walk_alone, walk_together
from threadsurgeon.cpython.threads import list_interpreters, list_thread_states
from threadsurgeon.model.threads import Frame

CODE_TYPE = 0x1234000


class FakeThread:
    """Frames in a fake target, and the content of the thread state that leads to them."""

    def __init__(self, heap):
        self.heap = heap
        self.layout = heap.layout
        self.frames = []

    def code(self, name, *, code_type=CODE_TYPE, copies=()):
        return self.heap.code(code_type, name, f"/{name}.py", 10, self.table(), copies)

    def table(self):
        """Eight bytes of code in line 12."""
        if self.layout.version >= (3, 11):
            return b"\xeb\x04"
        return b"\x08\x02" if self.layout.version >= (3, 10) else b"\x00\x02"

    def push(self, code, *, owner=0, offset=4, start=None):
        """Add a frame, called by the one added before; ``start``: where the bytecode that it runs begins."""
        previous = self.frames[-1] if self.frames else 0
        if self.layout.frame_object is not None:
            layout = self.layout.frame_object
            lasti = struct.pack("<i", offset // 2 if self.layout.version >= (3, 10) else offset)
            fields = {layout.f_back: previous, layout.f_code: code, layout.f_lasti: lasti}
        else:
            layout = self.layout.interpreter_frame
            if start is None:
                start = code + (self.layout.code_object.co_code_adaptive or 0)
            tag = 1 if self.layout.version >= (3, 14) else 0
            fields = {layout.previous: previous, layout.executable: code | tag, layout.owner: bytes([owner])}
            fields[layout.instr_ptr] = start + offset
        self.frames.append(self.heap.allocate(self.heap.struct(layout.size, fields)))
        return self.frames[-1]

    def state(self, top=None):
        """The content of the thread state."""
        top = (self.frames[-1] if self.frames else 0) if top is None else top
        layout = self.layout.thread_state
        if layout.cframe is not None:
            cframe = self.heap.allocate(self.heap.struct(64, {self.layout.cframe.current_frame: top}))
            return bytes(self.heap.struct(layout.size, {layout.cframe: cframe}))
        return bytes(self.heap.struct(layout.size, {layout.frame or layout.current_frame: top}))

    def link(self, frame, previous):
        """Make another frame the caller."""
        layout = self.layout.frame_object
        offset = layout.f_back if layout is not None else self.layout.interpreter_frame.previous
        self.heap.memory.write_pointer(frame + offset, previous)


@pytest.fixture
def thread(heap):
    return FakeThread(heap)


@pytest.fixture
def reader(heap):
    return FrameReader(heap.memory, ObjectReader(heap.layout), CODE_TYPE)


def read(reader, heap, *states):
    """The stacks that lead from the thread states, each None if torn."""
    raw = walk_together(heap.memory, [reader.walk_frames(state) for state in states])
    return reader.resolve([stack or [] for stack in raw])


def test_stack_is_read_innermost_first(heap, thread, reader):
    """Function, file and line of each frame."""
    for name in ("outer", "middle", "inner"):
        thread.push(thread.code(name))

    assert read(reader, heap, thread.state()) == [
        tuple(Frame(name, f"/{name}.py", 12) for name in ("inner", "middle", "outer"))
    ]


def test_thread_without_frames_has_an_empty_stack(heap, thread, reader):
    """It starts, or is C's."""
    layout = heap.layout.thread_state

    assert read(reader, heap, thread.state(), bytes(layout.size)) == [(), ()]


def test_frame_that_has_not_started_stands_at_its_first_line(heap, thread, reader):
    """Before its first instruction."""
    thread.push(thread.code("new"), offset=-2)

    assert read(reader, heap, thread.state()) == [(Frame("new", "/new.py", 10),)]


def test_frames_of_the_interpreter_itself_are_left_out(heap, thread, reader):
    """They mark where C called; their code is not one."""
    if heap.layout.interpreter_frame is None:
        pytest.skip("this version has none")
    thread.push(thread.code("outer"))
    thread.push(0x9999, owner=FIRST_INTERNAL_OWNER)
    thread.push(thread.code("inner"), owner=1)
    thread.push(0, owner=FIRST_INTERNAL_OWNER + 1)

    assert read(reader, heap, thread.state()) == [(Frame("inner", "/inner.py", 12), Frame("outer", "/outer.py", 12))]


def test_code_of_many_frames_is_read_once(heap, thread, reader):
    """A recursion, in many threads: the code is read with the first of them."""
    code = thread.code("recursive")
    for _ in range(100):
        thread.push(code)
    states = [thread.state()] * 10
    stacks = read(reader, heap, *states)
    calls = heap.memory.calls

    assert [len(stack) for stack in stacks] == [100] * 10
    assert read(reader, heap, *states) == stacks
    assert heap.memory.calls - calls <= 101 + 1  # the frames, and no code


@pytest.mark.parametrize("length", [1, 2, 7])
def test_cycle_of_frames_ends(heap, thread, reader, length):
    """However long the cycle, the walk is bounded."""
    code = thread.code("cyclic")
    for _ in range(length):
        thread.push(code)
    thread.link(thread.frames[0], thread.frames[-1])
    begin = time.monotonic()
    (stack,) = read(reader, heap, thread.state())

    assert len(stack) == MAX_FRAMES
    assert time.monotonic() - begin < 5


def test_cycle_of_the_interpreters_own_frames_ends(heap, thread, reader):
    """Frames that are left out count too."""
    if heap.layout.interpreter_frame is None:
        pytest.skip("this version has none")
    thread.push(0, owner=FIRST_INTERNAL_OWNER)
    thread.link(thread.frames[0], thread.frames[0])

    assert read(reader, heap, thread.state()) == [()]
    assert heap.memory.calls < MAX_FRAMES + 10


def test_stack_that_leads_nowhere_is_torn(heap, thread, reader):
    """A frame that was popped while we walked: no half a stack."""
    thread.push(thread.code("outer"))
    inner = thread.push(thread.code("inner"))
    thread.link(inner, 0xDEAD0000)

    assert walk_together(heap.memory, map(reader.walk_frames, [thread.state(), thread.state(0xBEEF0000)])) == [None, None]


def test_frame_of_something_that_is_no_code_tears_its_stack_only(heap, thread, reader):
    """What lies where a frame was may point anywhere."""
    good = thread.code("good")
    thread.push(good)
    whole = thread.state()
    states = [whole]
    for code in (thread.code("other", code_type=0x999), 0xDEAD000, heap.text("text")):
        thread.push(code)
        states.append(thread.state())
        thread.frames.pop()

    assert read(reader, heap, *states) == [(Frame("good", "/good.py", 12),), None, None, None]


def test_code_that_was_torn_is_read_again(heap, thread, reader):
    """An address that held no code at one moment may hold some at the next."""
    code = thread.code("late", code_type=0x999)
    thread.push(code)
    before = read(reader, heap, thread.state())
    heap.memory.write_pointer(code + heap.layout.pyobject.ob_type, CODE_TYPE)

    assert before == [None]
    assert read(reader, heap, thread.state()) == [(Frame("late", "/late.py", 12),)]


def test_hostile_memory_is_survived(heap, thread):
    """Random words in frames and code: a stack or None, never another error, and bounded."""
    dice = random.Random(5)
    for index in range(4):
        thread.push(thread.code(f"f{index}"))
    states = [thread.state()]
    good = {start: bytes(segment) for start, segment in heap.memory.segments.items()}
    addresses = list(good)
    for _ in range(150):
        for start in dice.sample(addresses, 3):
            segment = bytearray(good[start])
            where = dice.randrange(0, max(1, len(segment) - 8), 8)
            word = dice.choice([0, 1, 2**63, 2**64 - 1, dice.choice(addresses), dice.choice(thread.frames)])
            segment[where : where + 8] = struct.pack("<Q", word)[: len(segment) - where]
            heap.memory.segments[start] = segment
        (stack,) = read(FrameReader(heap.memory, ObjectReader(heap.layout), CODE_TYPE), heap, *states)

        assert stack is None or len(stack) <= MAX_FRAMES
        for start, content in good.items():
            heap.memory.segments[start] = bytearray(content)


def test_own_stacks_are_what_python_says(own_memory, own_runtime):
    """Recursion, a generator, a comprehension, a lambda, a call over lines; each thread waits at the bottom."""
    end, ready = threading.Event(), threading.Semaphore(0)

    def wait():
        ready.release()
        end.wait()

    def recursive(depth):
        if depth:
            recursive(
                depth - 1,
            )
        else:
            wait()

    def generator():
        yield 1
        wait()

    ways = [
        lambda: recursive(50),
        lambda: list(generator()),
        lambda: [wait() for _ in range(1)],
        lambda: max([1, 2], key=lambda _: wait() or 0),
        lambda: sorted({1}, key=lambda _: (
            0,
            wait(),
        )),
    ]  # fmt: skip
    threads = [threading.Thread(target=way) for way in ways]
    for one in threads:
        one.start()
    for _ in threads:
        ready.acquire()
    idents = {one.ident for one in threads}
    try:
        time.sleep(0.05)  # from release() into wait()
        reader = FrameReader(own_memory, ObjectReader(own_runtime.layout), id(type(wait.__code__)))
        states = list_thread_states(own_memory, own_runtime, list_interpreters(own_memory, own_runtime))
        states = [state for state in states if state.ident in idents]
        raw = walk_together(own_memory, [reader.walk_frames(state.content) for state in states])
        seen = {state.ident: stack for state, stack in zip(states, reader.resolve(raw), strict=True)}
        current = sys._current_frames()
        expected = {
            ident: tuple(
                Frame(frame.f_code.co_name, frame.f_code.co_filename, line)
                for frame, line in traceback.walk_stack(current[ident])
            )
            for ident in idents
        }
    finally:
        end.set()
        for one in threads:
            one.join()

    assert seen == expected


COPIES = [0x7000, 0x7020, 0, 0x6000_0000]


@pytest.fixture
def copied(heap, thread):
    """Code of which threads have copies of their own."""
    if heap.layout.code_object.co_tlbc is None:
        pytest.skip("all threads run the same bytecode")
    return thread.code("f", copies=COPIES)


@pytest.mark.parametrize("start", [None, *filter(None, COPIES)])
@pytest.mark.parametrize("offset", [0, 4])
def test_thread_may_run_a_copy_of_the_bytecode(heap, thread, reader, copied, start, offset):
    """Free-threaded 3.14: the line is that of the place in the copy, wherever this is."""
    thread.push(copied, start=start, offset=offset)

    assert read(reader, heap, thread.state()) == [(Frame("f", "/f.py", 12),)]


def test_copy_that_was_made_meanwhile_is_found(heap, thread, reader, copied):
    """The code was read before: for another thread."""
    thread.push(copied)
    read(reader, heap, thread.state())
    array = heap.allocate(struct.pack("<3Q", 2, copied + heap.layout.code_object.co_code_adaptive, 0x9000))
    heap.memory.write_pointer(copied + heap.layout.code_object.co_tlbc, array)
    thread.push(copied, start=0x9000)

    assert [frame.line for frame in read(reader, heap, thread.state())[0]] == [12, 12]


@pytest.mark.parametrize("array", [[0], [2**63, 1], [1 << 20, 1], [1, 0], [4, 1]])
def test_copies_that_make_no_sense_tear_the_stack(heap, thread, reader, copied, array):
    """No entry, too many, none for the main one, or fewer than it says."""
    content = heap.allocate(struct.pack(f"<{len(array)}Q", *array))
    heap.memory.write_pointer(copied + heap.layout.code_object.co_tlbc, content)
    thread.push(copied)

    assert read(reader, heap, thread.state()) == [None]


def test_raw_frames_tell_where_each_frame_stands(heap, thread, reader):
    """Its own address, its code, and its instruction: enough to see later whether it is the same call at the same place."""
    code = thread.code("f")
    frame = thread.push(code, offset=4)
    expected = 4 if heap.layout.version < (3, 10) else 2 if heap.layout.version < (3, 11) else None
    if expected is None:
        expected = code + heap.layout.code_object.co_code_adaptive + 4

    assert walk_alone(heap.memory, reader.walk_frames(thread.state())) == [RawFrame(frame, code, expected)]


@pytest.mark.parametrize("complete", [True, False])
def test_stack_that_does_not_begin_with_a_root_is_told_from_one_that_does(heap, thread, reader, complete):
    """A frame that was about to be called, or had returned, has no caller either."""
    if heap.layout.version >= (3, 12):
        if complete:
            thread.push(0, owner=FIRST_INTERNAL_OWNER)
        thread.push(thread.code("f"))
    else:
        frame = thread.push(thread.code("f"))
        layout = heap.layout.interpreter_frame
        mark = frame + (heap.layout.pyobject.ob_refcnt if layout is None else layout.owner - 1)  # is_entry in 3.11
        heap.memory.write(mark, bytes([complete]))

    frames, begins_at_root = walk_alone(heap.memory, reader.walk_stack(thread.state()))
    assert len(frames) == 1
    assert begins_at_root is complete


def test_frames_of_one_chunk_are_read_at_once_whatever_stands_between(heap, thread, reader):
    """Since 3.11; the frames of C's and of generators lie elsewhere, and each takes a read of its own."""
    if heap.layout.interpreter_frame is None:
        pytest.skip("this version has no chunks")
    size = heap.layout.interpreter_frame.size
    codes = [thread.code(f"f{number}") for number in range(6)]
    chunk = heap.allocate(bytes(16 + 6 * size))
    for number, code in enumerate(codes):
        if number == 3:
            thread.push(0, owner=FIRST_INTERNAL_OWNER)
        frame = thread.push(code)
        heap.memory.write(chunk + 16 + number * size, heap.memory.read(frame, size))
        thread.frames[-1] = chunk + 16 + number * size
    state = bytearray(thread.state())
    struct.pack_into("<Q", state, heap.layout.thread_state.datastack_chunk, chunk)
    reads = []
    walk = reader.walk_stack(bytes(state))
    request = next(walk)
    while True:
        reads.append(request)
        answer = heap.memory.read(*request) if isinstance(request, tuple) else heap.memory.read_many(request)
        try:
            request = walk.send(answer)
        except StopIteration as end:
            frames, _ = end.value
            break

    assert [frame.code for frame in frames] == codes[::-1]
    # the pointer of a cframe where there is one, the chunk, the frame of C's, and both of these once more
    assert len(reads) == 3 + (heap.layout.cframe is not None)
