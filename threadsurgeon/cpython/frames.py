"""Walk the Python frames of many threads together, and turn them into functions, files and lines."""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import NamedTuple

from threadsurgeon.cpython.layout import Layout
from threadsurgeon.cpython.line_numbers import find_line
from threadsurgeon.cpython.objects import ObjectReader
from threadsurgeon.cpython.reading import Walk, walk_together
from threadsurgeon.linux.memory import BadAddress, Memory
from threadsurgeon.model.threads import Frame

MAX_FRAMES = 10_000
# Since 3.11 the frames of a thread lie one behind the other, those of generators excepted, in chunks of this many bytes
# (DATA_STACK_CHUNK_SIZE; larger only for a huge frame): a chunk is read at once, from its beginning to the frame wanted.
MAX_CHUNK = 16 * 1024
# FRAME_OWNED_BY_CSTACK (3.12, 3.13) and FRAME_OWNED_BY_INTERPRETER (3.14 on) mark the entry of the C function that runs
# the frames.
FIRST_INTERNAL_OWNER = 3
# Since 3.14 a frame refers to its code by a _PyStackRef, whose lowest bits are a tag.
TAG_MASK = ~7
MAX_COPIES = 1 << 16  # as many as threads ran at once; _PyCodeArray doubles

_WORD = 8
_pointer = struct.Struct("<Q").unpack_from
_signed32 = struct.Struct("<i").unpack_from


class RawFrame(NamedTuple):
    """A frame as addresses: itself, its code object, and where it stands (see ``FrameReader._offset``)."""

    address: int
    code: int
    instruction: int


# A stack as (code, instruction) of each frame: the same for all threads that stand at the same place.
_Place = tuple[tuple[int, int], ...]


class _Code(NamedTuple):
    name: str
    file: str
    first_line: int
    line_table: bytes
    starts: tuple[int, ...]  # where its bytecode begins, and so does each copy of it, in rising order; 3.11 on


class FrameReader:
    """Reads the frames of one target during one look. Code objects are shared by frames and read once."""

    def __init__(self, memory: Memory, objects: ObjectReader, code_type: int) -> None:
        self._memory = memory
        self._objects = objects
        self._layout: Layout = objects.layout
        self._code_type = code_type
        self._link, self._size, self._unpack = _compile(self._layout)
        self._codes: dict[int, _Code] = {}
        self._frames: dict[tuple[int, int], Frame] = {}
        self._stacks: dict[_Place, tuple[Frame, ...]] = {}

    def walk_frames(self, thread_state: bytes) -> Walk[list[RawFrame]]:
        """Return a thread's frames, innermost first, from the content of its thread state.

        Raises:
            BadAddress: the stack has changed during the walk.
        """
        return (yield from self.walk_stack(thread_state))[0]

    def walk_stack(self, thread_state: bytes) -> Walk[tuple[list[RawFrame], bool]]:
        """Return the same, and whether the outermost of the frames is one with which a stack begins.

        A thread that calls and returns meanwhile leads the walk astray, so all that it saw is read once more at its end.

        Raises:
            BadAddress: the stack has changed during the walk.
        """
        address, chunk, holder = self._find_top(thread_state)
        if holder:
            (address,) = _pointer((yield (holder, 8)))
        unpack, frame_size = self._unpack, self._size
        frames: list[RawFrame] = []
        path: list[int] = []  # the addresses of all frames, the interpreter's own included
        parts: list[tuple[int, int]] = []  # the number of a range, and how long the path was when it was left
        ranges: list[tuple[int, int]] = []
        contents: list[bytes] = []
        held = -1  # the number of the range that holds what is known of the chunk, up to its frame `last`
        last = 0
        root = True
        while address and len(path) < MAX_FRAMES:
            if held >= 0 and not 0 <= address - chunk <= MAX_CHUNK:
                (before,) = _pointer(contents[held])  # the chunk before: _PyStackChunk begins with a pointer to it
                if 0 <= address - before <= MAX_CHUNK:
                    chunk, held = before, -1
            if held >= 0 and chunk <= address <= last:
                number, start, end = held, chunk, last
            else:
                number, start, end = len(ranges), address, address
                if 0 <= address - chunk <= MAX_CHUNK:
                    start, held, last = chunk, number, address
                ranges.append((start, end - start + frame_size))
                contents.append((yield ranges[-1]))
            content = contents[number]
            while start <= address <= end:  # in a chunk the caller comes first, so this ends
                code, previous, instruction, owner = unpack(content, address - start)
                if owner < FIRST_INTERNAL_OWNER:
                    frames.append(RawFrame(address, code & TAG_MASK, instruction))
                path.append(address)
                end = address - 1
                address = previous
            parts.append((number, len(path)))
            if not address:
                root = self._is_root(content, path[-1] - start, owner)
        again = yield ranges
        if again != contents:
            path.append(address)
            self._check_links(path, parts, ranges, again)
        return frames, root

    def _find_top(self, thread_state: bytes) -> tuple[int, int, int]:
        """Return the addresses of the innermost frame, of the chunk that holds the newest frames, and of a pointer.

        The chunk is 0 before 3.11. The pointer is 0, or leads to the innermost frame, and its address is the first.
        """
        state = self._layout.thread_state
        if state.frame is not None:
            return _pointer(thread_state, state.frame)[0], 0, 0
        assert state.datastack_chunk is not None
        (chunk,) = _pointer(thread_state, state.datastack_chunk)
        if state.current_frame is not None:
            return _pointer(thread_state, state.current_frame)[0], chunk, 0
        assert state.cframe is not None
        assert self._layout.cframe is not None
        (cframe,) = _pointer(thread_state, state.cframe)
        return 0, chunk, cframe and cframe + self._layout.cframe.current_frame

    def _is_root(self, content: bytes, start: int, owner: int) -> bool:
        """Say whether the frame at ``start``, which has no caller, may be one with which a stack begins.

        Else it is a frame that was about to be called, or had returned.
        """
        if self._layout.version >= (3, 12):
            return owner >= FIRST_INTERNAL_OWNER
        if self._layout.interpreter_frame is not None:  # 3.11: is_entry stands before owner
            return bool(content[start + self._layout.interpreter_frame.owner - 1])
        # A frame that is freed, or kept for the next call (co_zombieframe), has no reference and no caller.
        return bool(_pointer(content, start + self._layout.pyobject.ob_refcnt)[0])

    def _check_links(
        self,
        path: list[int],
        parts: list[tuple[int, int]],
        ranges: list[tuple[int, int]],
        contents: list[bytes | None],
    ) -> None:
        """Make sure that each frame of the path still has the next for its caller, in ``contents`` as read later."""
        begin = 0
        for number, end in parts:
            content, start = contents[number], ranges[number][0]
            for address, previous in zip(path[begin:end], path[begin + 1 : end + 1], strict=True):
                if content is None or _pointer(content, address - start + self._link)[0] != previous:
                    raise BadAddress(address, self._size)
            begin = end

    def resolve(self, stacks: Iterable[list[RawFrame]]) -> list[tuple[Frame, ...] | None]:
        """Turn raw frames into frames, None for a stack that was torn: one that names code that is not there.

        Threads that stand at the same place get the same tuple.
        """
        places = [tuple([frame[1:] for frame in stack]) for stack in stacks]
        unknown = {place for place in places if place not in self._stacks}
        # Where threads have copies of the bytecode, there may be more of them than when the code was read.
        again = self._layout.code_object.co_tlbc is not None
        wanted = sorted({code for place in unknown for code, _ in place if again or code not in self._codes})
        for address, code in zip(wanted, walk_together(self._memory, map(self._read_code, wanted)), strict=True):
            if code is not None:  # what is no code now may be some at the next try
                self._codes[address] = code
        for place in unknown:
            stack = self._resolve_stack(place)
            if stack is not None:
                self._stacks[place] = stack
        return [self._stacks.get(place) for place in places]

    def _resolve_stack(self, place: _Place) -> tuple[Frame, ...] | None:
        frames = []
        for where in place:
            frame = self._frames.get(where)
            if frame is None:
                address, instruction = where
                code = self._codes.get(address)
                if code is None:
                    return None
                line = find_line(self._layout.version, code.line_table, code.first_line, self._offset(code, instruction))
                frame = self._frames[where] = Frame(code.name, code.file, line)
            frames.append(frame)
        return tuple(frames)

    def _offset(self, code: _Code, instruction: int) -> int:
        """Return the offset of a frame's instruction in its code, in bytes.

        3.8, 3.9: f_lasti is that. 3.10: it counts instructions of two bytes. 3.11 on: a pointer into the code, or into a
        thread's copy of it, to the instruction last begun (prev_instr before 3.13).
        """
        if self._layout.version < (3, 10):
            return instruction
        if self._layout.version < (3, 11):
            return instruction * 2
        return instruction - code.starts[max(0, bisect_right(code.starts, instruction) - 1)]

    def _read_code(self, address: int) -> Walk[_Code]:
        layout = self._layout.code_object
        content = yield (address, layout.size)
        if _pointer(content, self._layout.pyobject.ob_type)[0] != self._code_type:
            raise BadAddress(address, layout.size)
        name = yield from self._objects.read_str(_pointer(content, layout.name)[0])
        file = yield from self._objects.read_str(_pointer(content, layout.filename)[0])
        table = yield from self._objects.read_bytes(_pointer(content, layout.linetable)[0])
        starts: tuple[int, ...] = ()
        if layout.co_tlbc is not None:
            starts = yield from self._read_copies(_pointer(content, layout.co_tlbc)[0])
        elif layout.co_code_adaptive is not None:
            starts = (address + layout.co_code_adaptive,)
        return _Code(name, file, _signed32(content, layout.firstlineno)[0], table, starts)

    def _read_copies(self, array: int) -> Walk[tuple[int, ...]]:
        """Return where each copy of a code's bytecode begins.

        3.14 on, free-threaded: each thread specialises a copy of its own (Objects/codeobject.c), all of which are in a
        _PyCodeArray: Py_ssize_t size, char *entries[]. The first is the one in the code object, NULL are those not made yet.
        """
        (count,) = _pointer((yield (array, _WORD)))
        if not 0 < count <= MAX_COPIES:
            raise BadAddress(array, _WORD)
        entries = struct.unpack(f"<{count}Q", (yield (array + _WORD, count * _WORD)))
        if not entries[0]:
            raise BadAddress(array, _WORD)
        return tuple(sorted(filter(None, entries)))


def _compile(layout: Layout) -> tuple[int, int, Callable[[bytes, int], tuple[int, ...]]]:
    """Return the offset of the link to the previous frame, how much of a frame to read, and how to take it apart.

    A frame comes apart as (code, previous, instruction, owner); frame objects have no owner, they are always Python's.
    """
    old, new = layout.frame_object, layout.interpreter_frame
    if new is not None:
        fields = [(new.executable, "Q"), (new.previous, "Q"), (new.instr_ptr, "Q"), (new.owner, "B")]
        return new.previous, *_unpacker(fields)
    assert old is not None
    size, unpack = _unpacker([(old.f_code, "Q"), (old.f_back, "Q"), (old.f_lasti, "i")])
    return old.f_back, size, lambda content, start: (*unpack(content, start), 0)


def _unpacker(fields: list[tuple[int, str]]) -> tuple[int, Callable[[bytes, int], tuple[int, ...]]]:
    """Return where the last of some fields ends, and what reads all of them."""
    rising = sorted(range(len(fields)), key=fields.__getitem__)
    text, end = "<", 0
    for number in rising:
        offset, code = fields[number]
        text += f"{offset - end}x{code}"
        end = offset + struct.calcsize(code)
    unpack = struct.Struct(text).unpack_from
    if rising == list(range(len(fields))):  # those of 3.11 to 3.15 are
        return end, unpack
    pick = itemgetter(*(rising.index(number) for number in range(len(fields))))
    return end, lambda content, start: pick(unpack(content, start))
