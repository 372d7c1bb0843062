"""With blocks and handlers of frames: judged by dis and by the source; damaged tables end in time, and in no claim."""

import ast
import contextlib
import dis
import json
import queue
import random
import re
import struct
import subprocess
import sys
import threading
import types

import pytest

from tests.unit.fake_memory import Heap
from tests.zoo import pythons
from threadsurgeon.cpython.blocks import (
    EXCEPT_HANDLER,
    SETUP_FINALLY,
    BlockReader,
    Entry,
    find_table_blocks,
    parse_exception_table,
)
from threadsurgeon.cpython.frames import RawFrame
from threadsurgeon.cpython.layout import find_layout
from threadsurgeon.cpython.objects import ObjectReader
from threadsurgeon.cpython.reading import walk_alone
from threadsurgeon.linux.memory import BadAddress

needs_tables = pytest.mark.skipif(sys.version_info < (3, 11), reason="exception tables came with 3.11")
CODE_TYPE = 0x5500_0000_1000
TABLE = b"\x81\x02\x03\x08"  # start 1, length 2, target 3, depth 4: in instructions

# `at(blocks, handling)`: how many with blocks are entered, and whether an exception is being handled.
SOURCE = """
    at(0, 0)
    with a:
        at(1, 0)
        with b, c:
            at(3, 0)
            for x in y:
                with d as (e, f):
                    at(4, 0)
                    if x:
                        continue
                    elif y:
                        break
                    elif z:
                        return at(4, 0)
                at(3, 0)
        at(1, 0)
        try:
            at(1, 0)
            with b:
                at(2, 0)
        except ValueError as error:
            at(1, 1)
            with c:
                at(2, 1)
                try:
                    at(2, 1)
                except TypeError:
                    at(2, 1)
            at(1, 1)
        except KeyError:
            at(1, 1)
        else:
            at(1, 0)
        at(1, 0)
    at(0, 0)
    while True:
        try:
            at(0, 0)
        except ValueError:
            at(0, 1)
            continue
        try:
            at(0, 0)
        except* KeyError:
            at(0, 1)
        lambda: at(0, 0)
        with a:
            [at(1, 0) for _ in at(1, 0)]
            with b:
                raise at(2, 0)
        at(0, 0)
"""


# Says where a function calls what: its code, its exception table, (offset, line) of each call.
COMPILE = """
import dis, json, sys
scope = {}
exec(sys.stdin.read(), scope)
code = scope["function"].__code__
calls = [(i.offset, i.positions.lineno) for i in dis.get_instructions(code) if i.opname == "CALL" and i.positions.lineno]
print(json.dumps([code.co_code.hex(), code.co_exceptiontable.hex(), calls]))
"""
WITH_TABLES = {
    (python.version[:2], python.build): python
    for python in pythons.select()
    if python.version >= (3, 11) and python.is_usual
}.values()


def all_code(code):
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from all_code(constant)


@needs_tables
@pytest.mark.parametrize("module", [contextlib, threading, queue, ast, subprocess], ids=lambda module: module.__name__)
def test_tables_are_read_as_dis_reads_them(module):
    """Every code object of modules with many blocks."""
    with open(module.__file__) as source:
        codes = list(all_code(compile(source.read(), module.__file__, "exec")))
    for code in codes:
        expected = [Entry(e.start, e.end, e.target, e.depth) for e in dis._parse_exception_table(code)]

        assert list(parse_exception_table(code.co_exceptiontable)) == expected
    assert any(code.co_exceptiontable for code in codes)


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("compiler", WITH_TABLES, ids=str)
def test_blocks_are_those_of_the_source(compiler, kind):
    """Each line says in how many blocks it is: all its calls are, as each CPython compiles it."""
    source = SOURCE if kind == "def" else SOURCE.replace("with ", "async with ").replace("for x", "async for x")
    source = f"{kind} function():{source}"
    lines = source.splitlines()
    answer = subprocess.run(
        [compiler.command, "-I", "-c", COMPILE], input=source, capture_output=True, text=True, check=True
    ).stdout
    code, encoded, calls = json.loads(answer)
    table = tuple(parse_exception_table(bytes.fromhex(encoded)))
    begins = {entry.target: bytes.fromhex(code)[entry.target : entry.target + 4] for entry in table}
    layout = find_layout(compiler.version[:2], debug=compiler.debug, free_threaded=False)
    seen = set()
    for offset, line in calls:
        match = re.search(r"at\((\d), (\d)\)", lines[line - 1])
        if match:
            blocks = find_table_blocks(layout, table, begins, offset)
            seen.add(line)

            assert (line, len(blocks.depths), int(blocks.handling)) == (line, int(match[1]), int(match[2]))
            assert list(blocks.depths) == sorted(set(blocks.depths), reverse=True)
    assert len(seen) >= source.count("at(") - 4


@pytest.mark.parametrize("table", [b"", b"\x80", TABLE[:3], b"\xff" * 100, bytes([0xC0]) + b"\x7f" * 50])
def test_damaged_tables_end(table):
    """What is cut off is left out; a number that does not end is none."""
    assert list(parse_exception_table(table)) == []


def test_random_tables_never_fail():
    """Whatever is read for a table: some blocks or BadAddress, in time."""
    chance = random.Random(1)
    layout = find_layout((3, 13), debug=False, free_threaded=False)
    for _ in range(300):
        table = tuple(parse_exception_table(chance.randbytes(200)))
        opcodes = [bytes([layout.opcodes.push_exc_info, 0, layout.opcodes.with_except_start, 0]), chance.randbytes(4)]
        begins = {entry.target: chance.choice(opcodes) for entry in table}
        for offset in (-2, 0, 20, 10**6):
            with contextlib.suppress(BadAddress):
                find_table_blocks(layout, table, begins, offset)


def test_table_that_leads_in_circles_is_none():
    """A handler that is its own handler."""
    layout = find_layout((3, 13), debug=False, free_threaded=False)
    with pytest.raises(BadAddress):
        find_table_blocks(layout, (Entry(0, 10, 4, 1),), {}, 0)


def test_entry_is_in_bytes():
    """The table counts instructions of two bytes."""
    assert list(parse_exception_table(TABLE)) == [Entry(2, 6, 6, 4)]


@pytest.fixture(params=[8, 9, 10], ids="3.{}".format)
def old_heap(request):
    return Heap(find_layout((3, request.param), debug=False, free_threaded=False))


def make_frame(heap, blocks, instructions, *, stack_size=10, iblock=None, variables=2):
    """A frame object whose stack begins after its local variables, and the code it runs."""
    layout = heap.layout
    code = layout.code_object
    fields = {
        layout.pyobject.ob_type: CODE_TYPE,
        code.name: heap.text("function"),
        code.co_code: heap.bytes(instructions),
        code.co_stacksize: struct.pack("<i", stack_size),
    }
    code_address = heap.allocate(heap.struct(code.size, fields))
    frame = layout.frame_object
    address = heap.allocate(heap.struct(frame.f_localsplus + 800, {}))
    packed = b"".join(struct.pack("<iii", *block) for block in blocks)
    heap.memory.write(address + frame.f_blockstack, packed)
    heap.memory.write(address + frame.f_iblock, struct.pack("<i", len(blocks) if iblock is None else iblock))
    heap.memory.write_pointer(address + frame.f_valuestack, address + frame.f_localsplus + 8 * variables)
    return RawFrame(address, code_address, 0)


def read(heap, frame):
    return walk_alone(heap.memory, BlockReader(ObjectReader(heap.layout), CODE_TYPE).read_blocks(frame))


def test_block_stack_tells_with_from_try(old_heap):
    """Both have the same type: the first instruction of the handler is what makes it a with block."""
    unit = 2 if old_heap.layout.version == (3, 10) else 1
    instructions = bytes([1, 0, 2, 0, old_heap.layout.opcodes.with_except_start, 0])
    blocks = [(SETUP_FINALLY, 4 // unit, 1), (SETUP_FINALLY, 2 // unit, 1), (SETUP_FINALLY, 4 // unit, 3)]
    frame = make_frame(old_heap, blocks, instructions)
    said = read(old_heap, frame)
    stack = frame.address + old_heap.layout.frame_object.f_localsplus + 16

    assert said.exits == (stack + 16, stack)
    assert (said.handling, said.locals_count) == (False, 2)


def test_block_that_is_about_to_be_pushed_is_none(old_heap):
    """A thread that is stopped within ``try``: the number of blocks may be raised already, the block still an older one."""
    instructions = bytes([SETUP_FINALLY, 0, old_heap.layout.opcodes.with_except_start, 0])
    handler = 1 if old_heap.layout.version == (3, 10) else 2
    frame = make_frame(old_heap, [(SETUP_FINALLY, handler, 1), (SETUP_FINALLY, handler, 2)], instructions)
    first = frame.address + old_heap.layout.frame_object.f_localsplus + 16

    assert read(old_heap, frame).exits == (first,)
    assert len(read(old_heap, frame._replace(instruction=handler)).exits) == 2


def test_block_stack_tells_handlers(old_heap):
    """A block that stands for as long as a handler runs."""
    assert read(old_heap, make_frame(old_heap, [(EXCEPT_HANDLER, -1, 0)], b"")).handling


@pytest.mark.parametrize("change", [{"iblock": -1}, {"iblock": 21}, {"variables": -1}, {"variables": 10**6}])
def test_frame_that_is_none_is_said(old_heap, change):
    """Numbers that no frame has."""
    with pytest.raises(BadAddress):
        read(old_heap, make_frame(old_heap, [], b"", **change))


@pytest.mark.parametrize("level", [0, -1, 11, 2**31 - 1])
def test_exit_is_on_the_stack(old_heap, level):
    """A depth that the code's stack does not have is no place to read."""
    instructions = bytes([old_heap.layout.opcodes.with_except_start, 0])

    assert read(old_heap, make_frame(old_heap, [(SETUP_FINALLY, 0, level)], instructions)).exits == ()


@pytest.mark.parametrize("handler", [-1, 1, 10**6])
def test_handler_is_in_the_code(old_heap, handler):
    """A handler outside of the instructions is none."""
    instructions = bytes([old_heap.layout.opcodes.with_except_start, 0])

    assert read(old_heap, make_frame(old_heap, [(SETUP_FINALLY, handler, 1)], instructions)).exits == ()
