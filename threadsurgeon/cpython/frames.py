"""Walk the Python frames of many threads together, and turn them into functions, files and lines."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

from threadsurgeon.cpython.layout import Layout
from threadsurgeon.cpython.line_numbers import find_line
from threadsurgeon.cpython.objects import POINTER, ObjectReader
from threadsurgeon.cpython.reading import Walk, walk_together
from threadsurgeon.linux.memory import BadAddress, Memory
from threadsurgeon.model import Frame

MAX_FRAMES = 10_000
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
        self._codes: dict[int, _Code] = {}
        self._frames: dict[tuple[int, int], Frame] = {}

    def walk_frames(self, thread_state: bytes) -> Walk[list[RawFrame]]:
        """Return a thread's frames, innermost first, from the content of its thread state.

        The thread runs meanwhile: the caller gets what was seen, ``read_stacks`` tells what of it is real.
        """
        state = self._layout.thread_state
        if self._layout.frame_object is not None:
            assert state.frame is not None
            return (yield from self._walk_frame_objects(_pointer(thread_state, state.frame)[0]))
        if state.cframe is not None:
            assert self._layout.cframe is not None
            cframe = _pointer(thread_state, state.cframe)[0]
            if not cframe:
                return []
            first = yield from self._objects.read_pointer(cframe + self._layout.cframe.current_frame)
        else:
            assert state.current_frame is not None
            first = _pointer(thread_state, state.current_frame)[0]
        return (yield from self._walk_interpreter_frames(first))

    def _walk_frame_objects(self, address: int) -> Walk[list[RawFrame]]:
        layout = self._layout.frame_object
        assert layout is not None
        start = min(layout.f_back, layout.f_code, layout.f_lasti)
        size = max(layout.f_back + POINTER, layout.f_code + POINTER, layout.f_lasti + 4) - start
        frames: list[RawFrame] = []
        links: list[tuple[int, int]] = []
        while address and len(frames) < MAX_FRAMES:
            content = yield (address + start, size)
            (lasti,) = _signed32(content, layout.f_lasti - start)
            frames.append(RawFrame(address, _pointer(content, layout.f_code - start)[0], lasti))
            link = address + layout.f_back
            (address,) = _pointer(content, layout.f_back - start)
            links.append((link, address))
        yield from _check_links(links)
        return frames

    def _walk_interpreter_frames(self, address: int) -> Walk[list[RawFrame]]:
        layout = self._layout.interpreter_frame
        assert layout is not None
        size = layout.owner + 1
        frames: list[RawFrame] = []
        links: list[tuple[int, int]] = []
        while address and len(links) < MAX_FRAMES:
            content = yield (address, size)
            if content[layout.owner] < FIRST_INTERNAL_OWNER:
                code = _pointer(content, layout.executable)[0] & TAG_MASK
                frames.append(RawFrame(address, code, _pointer(content, layout.instr_ptr)[0]))
            link = address + layout.previous
            (address,) = _pointer(content, layout.previous)
            links.append((link, address))
        yield from _check_links(links)
        return frames

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


def _check_links(links: list[tuple[int, int]]) -> Walk[None]:
    """Read the links from frame to frame once more: a thread that calls and returns meanwhile leads the walk astray.

    Raises:
        BadAddress: the stack has changed during the walk.
    """
    contents = yield [(address, POINTER) for address, _ in links]
    for (address, value), content in zip(links, contents, strict=True):
        if content is None or _pointer(content)[0] != value:
            raise BadAddress(address, POINTER)
