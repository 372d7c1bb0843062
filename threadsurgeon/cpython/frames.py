"""Walk the Python frames of many threads together, and turn them into functions, files and lines."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import NamedTuple

from threadsurgeon.cpython.layout import Layout
from threadsurgeon.cpython.line_numbers import find_line
from threadsurgeon.cpython.objects import ObjectReader
from threadsurgeon.cpython.reading import Walk, walk_together
from threadsurgeon.linux.memory import BadAddress, Memory
from threadsurgeon.model import Frame

MAX_FRAMES = 10_000
# Since 3.11 the frames of a thread lie one behind the other, those of generators excepted, in chunks of this many bytes
# (DATA_STACK_CHUNK_SIZE; larger only for a huge frame): a chunk is read at once, from its beginning to the frame wanted.
MAX_CHUNK = 16 * 1024
# FRAME_OWNED_BY_CSTACK (3.12, 3.13) and FRAME_OWNED_BY_INTERPRETER (3.14 on) mark the entry of the C function that runs
# the frames.
FIRST_INTERNAL_OWNER = 3
# Since 3.14 a frame refers to its code by a _PyStackRef, whose lowest bits are a tag.
TAG_MASK = ~7

_pointer = struct.Struct("<Q").unpack_from
_signed32 = struct.Struct("<i").unpack_from


class RawFrame(NamedTuple):
    """A frame as addresses: itself, its code object, and where it stands (see ``FrameReader._offset``)."""

    address: int
    code: int
    instruction: int


class _Code(NamedTuple):
    name: str
    file: str
    first_line: int
    line_table: bytes


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

    def walk_frames(self, thread_state: bytes) -> Walk[list[RawFrame]]:
        """Return a thread's frames, innermost first, from the content of its thread state.

        A thread that calls and returns meanwhile leads the walk astray, so all that it saw is read once more at its end.

        Raises:
            BadAddress: the stack has changed during the walk.
        """
        address, chunk = yield from self._find_top(thread_state)
        frames: list[RawFrame] = []
        links: list[tuple[int, int, int]] = []
        ranges: list[tuple[int, int]] = []
        contents: list[bytes] = []
        start = last = 0  # where the frames are that the latest range holds
        content = b""
        while address and len(links) < MAX_FRAMES:
            if not start <= address <= last:
                if contents and chunk == start:
                    (chunk,) = _pointer(content)  # the chunk before: _PyStackChunk begins with a pointer to it
                start = chunk if 0 <= address - chunk <= MAX_CHUNK else address
                last = address
                ranges.append((start, last - start + self._size))
                content = yield ranges[-1]
                contents.append(content)
            previous, code, instruction, owner = self._unpack(content, address - start)
            if owner < FIRST_INTERNAL_OWNER:
                frames.append(RawFrame(address, code & TAG_MASK, instruction))
            links.append((len(ranges) - 1, address, previous))
            address = previous
        again = yield ranges
        if again != contents:
            self._check_links(links, ranges, again)
        return frames

    def _find_top(self, thread_state: bytes) -> Walk[tuple[int, int]]:
        """Return the addresses of the innermost frame, and of the chunk that holds the newest frames (0 before 3.11)."""
        state = self._layout.thread_state
        if state.frame is not None:
            return _pointer(thread_state, state.frame)[0], 0
        assert state.datastack_chunk is not None
        (chunk,) = _pointer(thread_state, state.datastack_chunk)
        if state.current_frame is not None:
            return _pointer(thread_state, state.current_frame)[0], chunk
        assert state.cframe is not None
        assert self._layout.cframe is not None
        (cframe,) = _pointer(thread_state, state.cframe)
        if not cframe:
            return 0, chunk
        return (yield from self._objects.read_pointer(cframe + self._layout.cframe.current_frame)), chunk

    def _check_links(
        self, links: list[tuple[int, int, int]], ranges: list[tuple[int, int]], contents: list[bytes | None]
    ) -> None:
        """Make sure that each frame still has the same caller, in ``contents`` as read later."""
        for number, address, previous in links:
            content = contents[number]
            if content is None or _pointer(content, address - ranges[number][0] + self._link)[0] != previous:
                raise BadAddress(address, self._size)

    def resolve(self, stacks: Iterable[list[RawFrame]]) -> list[tuple[Frame, ...] | None]:
        """Turn raw frames into frames, None for a stack that was torn: one that names code that is not there."""
        stacks = list(stacks)
        wanted = sorted({frame.code for stack in stacks for frame in stack if not self._codes.get(frame.code)})
        for address, code in zip(
            wanted, walk_together(self._memory, map(self._read_code, wanted)), strict=True
        ):
            if code is not None:  # what is no code now may be some at the next try
                self._codes[address] = code
        return [self._resolve_stack(stack) for stack in stacks]

    def _resolve_stack(self, stack: list[RawFrame]) -> tuple[Frame, ...] | None:
        frames = []
        for raw in stack:
            frame = self._frames.get((raw.code, raw.instruction))
            if frame is None:
                code = self._codes.get(raw.code)
                if code is None:
                    return None
                line = find_line(self._layout.version, code.line_table, code.first_line, self._offset(raw))
                frame = self._frames[raw.code, raw.instruction] = Frame(code.name, code.file, line)
            frames.append(frame)
        return tuple(frames)

    def _offset(self, frame: RawFrame) -> int:
        """Return the offset of the frame's instruction in its code, in bytes.

        3.8, 3.9: f_lasti is that. 3.10: it counts instructions of two bytes. 3.11 on: a pointer into the code, to the
        instruction last begun (prev_instr before 3.13).
        """
        if self._layout.version < (3, 10):
            return frame.instruction
        if self._layout.version < (3, 11):
            return frame.instruction * 2
        start = self._layout.code_object.co_code_adaptive
        assert start is not None
        return frame.instruction - frame.code - start

    def _read_code(self, address: int) -> Walk[_Code]:
        layout = self._layout.code_object
        content = yield (address, layout.size)
        if _pointer(content, self._layout.pyobject.ob_type)[0] != self._code_type:
            raise BadAddress(address, layout.size)
        name = yield from self._objects.read_str(_pointer(content, layout.name)[0])
        file = yield from self._objects.read_str(_pointer(content, layout.filename)[0])
        table = yield from self._objects.read_bytes(_pointer(content, layout.linetable)[0])
        return _Code(name, file, _signed32(content, layout.firstlineno)[0], table)


def _compile(layout: Layout) -> tuple[int, int, Callable[[bytes, int], tuple[int, int, int, int]]]:
    """Return the offset of the link to the previous frame, how much of a frame to read, and how to take it apart.

    A frame comes apart as (previous, code, instruction, owner); frame objects have no owner, they are always Python's.
    """
    old, new = layout.frame_object, layout.interpreter_frame
    if old is not None:
        fields = [(old.f_back, "Q"), (old.f_code, "Q"), (old.f_lasti, "i")]
    else:
        assert new is not None
        fields = [(new.previous, "Q"), (new.executable, "Q"), (new.instr_ptr, "Q"), (new.owner, "B")]
    order = sorted(range(len(fields)), key=lambda number: fields[number])
    text, end = "<", 0
    for number in order:
        offset, code = fields[number]
        text += f"{offset - end}x{code}"
        end = offset + struct.calcsize(code)
    unpack = struct.Struct(text).unpack_from
    places = [order.index(number) for number in range(len(fields))]
    if old is not None:
        back, code_place, lasti = places

        def take_apart(content: bytes, start: int) -> tuple[int, int, int, int]:
            values = unpack(content, start)
            return values[back], values[code_place], values[lasti], 0
    else:
        back, code_place, instruction, owner = places

        def take_apart(content: bytes, start: int) -> tuple[int, int, int, int]:
            values = unpack(content, start)
            return values[back], values[code_place], values[instruction], values[owner]

    return fields[0][0], end, take_apart
