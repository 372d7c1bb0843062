"""Which ``with`` blocks a frame has entered, and whether it is handling an exception at this moment.

While a ``with`` block runs, its ``__exit__`` waits on the frame's value stack, at a depth that the block stack (3.8 to 3.10)
or the exception table of the code (3.11 on) tells. Neither knows of ``finally`` that runs without an exception.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from threadsurgeon.cpython.frames import RawFrame
from threadsurgeon.cpython.layout import Layout
from threadsurgeon.cpython.objects import POINTER, ObjectReader
from threadsurgeon.cpython.reading import Walk
from threadsurgeon.linux.memory import BadAddress

MAX_BLOCKS = 20  # CO_MAXBLOCKS; since 3.11 it only bounds the compiler
MAX_HANDLERS = 8 * MAX_BLOCKS  # a block has up to three handlers: its own, the clean-up of that, that of `as name`
MAX_SLOTS = 1 << 16
# Block types of 3.8 to 3.10 (opcode.h): `with` and `try` both push the first; the second stands while a handler runs.
SETUP_FINALLY, EXCEPT_HANDLER = 122, 257

_pointer = struct.Struct("<Q").unpack_from
_signed32 = struct.Struct("<i").unpack_from
_try_block = struct.Struct("<iii")  # PyTryBlock: b_type, b_handler, b_level


class Entry(NamedTuple):
    """A line of an exception table: an exception in this range of bytes goes to ``target``, ``depth`` values are kept."""

    start: int
    end: int
    target: int
    depth: int


class Blocks(NamedTuple):
    """What a frame is in. ``depths``: of the value stack up to each entered ``with`` block's exit, innermost first."""

    depths: tuple[int, ...]
    handling: bool


class FrameBlocks(NamedTuple):
    """``exits``: the addresses of the value that each entered ``with`` block put last on the stack, innermost first."""

    exits: tuple[int, ...]
    handling: bool
    locals_address: int
    locals_count: int


class CodeBlocks(NamedTuple):
    """What the frames of one code object have in common.

    ``begins``: the first two instructions at each place to which exceptions go (3.11 on).
    """

    name: str
    stack_size: int
    locals_count: int | None  # 3.11 on
    instructions: bytes  # 3.8 to 3.10
    table: tuple[Entry, ...]
    begins: dict[int, bytes]

    def has_handler(self, opcode: int) -> bool:
        """Say whether an exception handler may begin with this instruction."""
        return opcode in self.instructions[::2] or any(begin[2] == opcode for begin in self.begins.values())


def parse_exception_table(table: bytes) -> Iterator[Entry]:
    """Yield the entries of a ``co_exceptiontable`` (3.11 on), up to the first that is damaged.

    An entry is four numbers of six bits a byte, highest first; bit 6 says that more follow, bit 7 marks an entry's first
    byte. Objects/exception_handling_notes.txt, in 3.15 InternalDocs/exception_handling.md.
    """
    numbers: list[int] = []
    value = 0
    for byte in table:
        value = value << 6 | byte & 63
        if byte & 64:
            if value >> 32:
                return
            continue
        numbers.append(value)
        value = 0
        if len(numbers) == 4:
            start, length, target, depth_and_lasti = numbers
            yield Entry(2 * start, 2 * (start + length), 2 * target, depth_and_lasti >> 1)
            numbers = []


def find_table_blocks(layout: Layout, table: Sequence[Entry], begins: dict[int, bytes], offset: int) -> Blocks:
    """Say what the instruction at ``offset`` (bytes) is in: where would an exception go, and one raised there, and so on."""
    opcodes = layout.opcodes
    depths: list[int] = []
    handling = False
    entered_handler = False
    for _ in range(MAX_HANDLERS):
        entry = next((entry for entry in table if entry.start <= offset < entry.end), None)
        if entry is None:
            return Blocks(tuple(depths), handling)
        # Each handler is PUSH_EXC_INFO…; an exception in it goes to its clean-up (COPY 3, POP_EXCEPT, RERAISE 1).
        first, argument, second, _ = begins.get(entry.target, bytes(4))
        if second == opcodes.with_except_start:
            depths.append(entry.depth)
            entered_handler = True
        elif first == opcodes.push_exc_info:
            entered_handler = True
        else:
            if first == opcodes.copy and argument == 3 and not entered_handler:
                handling = True  # not the clean-up of a handler that would be entered: that of one we are in
            entered_handler = entered_handler and not (first == opcodes.copy and argument == 3)
        offset = entry.target
    raise BadAddress(0, 0)  # no code has so many: the table was not one


class BlockReader:
    """Reads the blocks of frames of one target during one look. What belongs to the code is read once."""

    def __init__(self, objects: ObjectReader, code_type: int) -> None:
        self._objects = objects
        self._layout = objects.layout
        self._code_type = code_type
        self._codes: dict[int, CodeBlocks] = {}
        self._places: dict[int, Blocks] = {}  # by instruction pointer

    def read_blocks(self, frame: RawFrame) -> Walk[FrameBlocks]:
        """Return what the frame is in."""
        code = yield from self.read_code(frame.code)
        if self._layout.frame_object is not None:
            return (yield from self._read_block_stack(frame, code))
        layout = self._layout.interpreter_frame
        assert layout is not None
        assert code.locals_count is not None
        start = self._layout.code_object.co_code_adaptive
        assert start is not None
        blocks = self._places.get(frame.instruction)
        if blocks is None:
            offset = frame.instruction - frame.code - start
            blocks = self._places[frame.instruction] = find_table_blocks(self._layout, code.table, code.begins, offset)
        return _locate(blocks, code, frame.address + layout.localsplus, code.locals_count)

    def _read_block_stack(self, frame: RawFrame, code: CodeBlocks) -> Walk[FrameBlocks]:
        layout = self._layout.frame_object
        assert layout is not None
        content = yield (frame.address, layout.f_blockstack + MAX_BLOCKS * _try_block.size)
        (count,) = _signed32(content, layout.f_iblock)
        locals_address = frame.address + layout.f_localsplus
        locals_count = (_pointer(content, layout.f_valuestack)[0] - locals_address) // POINTER
        if not 0 <= count <= MAX_BLOCKS or not 0 <= locals_count < MAX_SLOTS:
            raise BadAddress(frame.address, layout.size)
        unit = 2 if self._layout.version >= (3, 10) else 1  # 3.10 counts instructions, before that it is bytes
        current = code.instructions[frame.instruction * unit : frame.instruction * unit + 1] if frame.instruction >= 0 else b""
        if current == bytes([SETUP_FINALLY]):
            count = max(0, count - 1)  # `try` is about to push it: what stood there before may not be overwritten yet
        depths = []
        handling = False
        for index in range(count):
            kind, handler, level = _try_block.unpack_from(content, layout.f_blockstack + index * _try_block.size)
            begin = code.instructions[handler * unit : handler * unit + 1] if handler >= 0 else b""
            if kind == SETUP_FINALLY and begin == bytes([self._layout.opcodes.with_except_start]):
                depths.append(level)
            handling = handling or kind == EXCEPT_HANDLER
        return _locate(Blocks(tuple(reversed(depths)), handling), code, locals_address, locals_count)

    def read_uses(self, code: int, name: str) -> Walk[bool]:
        """Say whether the code refers to an attribute or a global of that name."""
        layout = self._layout.code_object
        # co_code, co_consts, co_names (3.8 to 3.10); co_consts, co_names, co_exceptiontable (3.11 to 3.15).
        if layout.co_code is not None:
            field = layout.co_code + 2 * POINTER
        else:
            assert layout.co_exceptiontable is not None
            field = layout.co_exceptiontable - POINTER
        names = yield from self._objects.read_pointer(code + field)
        begin = names + self._layout.pyobject.size
        count = yield from self._objects.read_pointer(begin)
        if not 0 <= count < MAX_SLOTS:
            raise BadAddress(begin, POINTER)
        if not count:
            return False
        # One word more: since 3.14 a tuple's hash stands before its items. It is no address of a text.
        content = yield (begin + POINTER, (count + 1) * POINTER)
        words = struct.unpack(f"<{count + 1}Q", content)
        return name in (yield from self._objects.find_items([(word, 1) for word in words], name))

    def read_code(self, address: int) -> Walk[CodeBlocks]:
        """Return what the frames of a code object have in common."""
        known = self._codes.get(address)
        if known is not None:
            return known
        layout = self._layout.code_object
        content = yield (address, layout.size)
        if _pointer(content, self._layout.pyobject.ob_type)[0] != self._code_type:
            raise BadAddress(address, layout.size)
        name = yield from self._objects.read_str(_pointer(content, layout.name)[0])
        (stack_size,) = _signed32(content, layout.co_stacksize)
        locals_count = None
        instructions = b""
        table: tuple[Entry, ...] = ()
        begins: dict[int, bytes] = {}
        if layout.co_code is not None:
            instructions = yield from self._objects.read_bytes(_pointer(content, layout.co_code)[0])
        else:
            assert layout.co_nlocalsplus is not None
            assert layout.co_exceptiontable is not None
            assert layout.co_code_adaptive is not None
            (locals_count,) = _signed32(content, layout.co_nlocalsplus)
            encoded = yield from self._objects.read_bytes(_pointer(content, layout.co_exceptiontable)[0])
            table = tuple(parse_exception_table(encoded))
            start = address + layout.co_code_adaptive
            targets = sorted({entry.target for entry in table})
            contents = yield [(start + target, 4) for target in targets]
            begins = {t: begin for t, begin in zip(targets, contents, strict=True) if begin is not None}
            # A tracer of each single instruction (f_trace_opcodes, since 3.12 this hides them): nothing can be told.
            hidden = self._layout.opcodes.instrumented_instruction
            if hidden is not None and any(hidden in begin[::2] for begin in begins.values()):
                raise BadAddress(address, layout.size)
        if not 0 <= stack_size < MAX_SLOTS or not 0 <= (locals_count or 0) < MAX_SLOTS:
            raise BadAddress(address, layout.size)
        code = CodeBlocks(name, stack_size, locals_count, instructions, table, begins)
        self._codes[address] = code
        return code


def _locate(blocks: Blocks, code: CodeBlocks, locals_address: int, locals_count: int) -> FrameBlocks:
    stack = locals_address + locals_count * POINTER
    exits = tuple(stack + (depth - 1) * POINTER for depth in blocks.depths if 0 < depth <= code.stack_size)
    return FrameBlocks(exits, blocks.handling, locals_address, locals_count)
