"""Files and tables that lie: whatever is in an ELF file, unwind information or CPython's tables, reading it ends soon."""

import glob
import os
import struct
import sysconfig
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.fake_memory import FakeMemory
from tests.unit.fuzzing import tries
from threadsurgeon.cpython.blocks import Blocks, find_table_blocks, parse_exception_table
from threadsurgeon.cpython.layout import find_layout
from threadsurgeon.cpython.line_numbers import find_line
from threadsurgeon.linux import dwarf_expression
from threadsurgeon.linux.dwarf_expression import BadExpression, evaluate
from threadsurgeon.linux.eh_frame import BadUnwindInfo, Fde, Row, UnwindTable, _Cie, run_instructions
from threadsurgeon.linux.elf import ElfFile, NotElf
from threadsurgeon.linux.mappings import Image, MappedFile, list_mapped_files
from threadsurgeon.linux.memory import BadAddress
from threadsurgeon.linux.unwind import NAMES, CannotUnwind, CodeMap, walk

BIAS, STACK = 0x7F00_0000_0000, 0x7FFF_0000_0000
NUMBERS = st.one_of(
    st.integers(0, 70),
    st.sampled_from([2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1]),
    st.integers(0, 2**64 - 1),
)
EDITS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.sampled_from([1, 2, 4, 8]), NUMBERS), min_size=1, max_size=10)


def interesting(content, path):
    """Where the parts are that a reader looks at: the headers, the dynamic section, its tables, and the unwind information."""
    elf = ElfFile(path)
    yield 0, 64
    (headers,) = struct.unpack_from("<Q", content, 32)
    yield headers, 56 * len(elf.segments)
    for segment in elf.segments:
        if segment.type in (2, 4, 0x6474E550):  # PT_DYNAMIC, PT_NOTE, PT_GNU_EH_FRAME
            yield segment.offset, segment.file_size
    for tag in (5, 6, 0x6FFFFEF5):  # DT_STRTAB, DT_SYMTAB, DT_GNU_HASH
        address = elf._dynamic[tag]
        yield elf._offset(address), 256
    yield from ((elf._offset(entry), 40) for entry in UnwindTable(elf)._entries[:40:4])


@pytest.fixture(scope="module")
def library():
    """A small library, and the places in it that matter."""
    files = glob.glob(f"{sysconfig.get_config_var('DESTSHARED')}/*.so") or glob.glob("/lib/x86_64-linux-gnu/libdl*.so*")
    path = min((file for file in files if Path(file).stat().st_size > 20_000), key=lambda file: Path(file).stat().st_size)
    content = Path(path).read_bytes()
    places = [start + step for start, size in interesting(content, path) for step in range(0, size, 2)]
    return content, places


def look_at_file(path, pcs):
    """Ask the file everything that there is to ask."""
    try:
        elf = ElfFile(path)
    except NotElf:
        return
    functions = elf.functions()
    assert all(isinstance(address, int) and isinstance(name, str) for address, name in functions.items())
    for name in [*list(functions.values())[:5], "PyInit_x", ""]:
        assert isinstance(elf.symbol(name), int | None)
    assert isinstance(elf.build_id(), bytes | None)
    assert isinstance(elf.load_bias(BIAS, 0), int | None)
    table = UnwindTable(elf)
    for pc in [*pcs, *table.starts[:20], 0, 2**64 - 1]:
        try:
            fde = table.find(pc)
            assert isinstance(fde, Fde | None)
            if fde is not None:
                assert isinstance(table.row(fde, pc), Row)
        except BadUnwindInfo:
            pass
        assert_walk_ends(elf, pc)


def assert_walk_ends(elf, pc):
    """Unwind from there, on a stack that holds nothing but itself."""
    image = Image(MappedFile(1, "x.so", BIAS, BIAS + 4096, 0), elf, BIAS)
    memory = FakeMemory({STACK: struct.pack("<512Q", *range(STACK, STACK + 4096, 8))})
    registers = (*[STACK] * (len(NAMES) - 1), pc + BIAS & 2**64 - 1)
    frames = []
    with pytest.raises(CannotUnwind):
        frames.extend(walk(registers, CodeMap([image]), memory))
    assert all(0 <= frame.cfa < 2**64 for frame in frames)


def test_file_that_lies(library):
    """A library with numbers changed where it matters: an answer, or an error of ours, never another."""
    content, places = library
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "library.so")
        path.write_bytes(content)
        pcs = UnwindTable(ElfFile(str(path))).starts[:40:4]
        assert pcs

        @tries(150)
        @given(EDITS, st.integers(0, len(content)) | st.just(len(content)))
        def look(edits, size):
            changed = bytearray(content)
            for where, width, number in edits:
                place = places[int(where * len(places))]
                changed[place : place + width] = (number & (1 << 8 * width) - 1).to_bytes(width, "little")
            path.unlink()  # another may still have it mapped
            path.write_bytes(changed[:size])
            look_at_file(str(path), pcs)

        look()


def test_names_without_end(tmp_path):
    """Thousands of functions whose names never end do not each cost the rest of the file."""
    libc = next(file for file in list_mapped_files(os.getpid()) if Path(file.path).name.startswith(("libc.so", "libc-")))
    elf = ElfFile(libc.path)
    strings = elf._offset(elf._dynamic[5])  # DT_STRTAB
    path = tmp_path / "library.so"
    content = bytearray(Path(libc.path).read_bytes())
    content[strings : strings + 60_000] = b"x" * 60_000
    path.write_bytes(content)

    assert len(elf.functions()) > 1000
    assert sum(map(len, ElfFile(str(path)).functions().values())) < 100_000


class Counting(FakeMemory):
    """Memory in which every word is there."""

    def read(self, address, size):
        self.calls += 1
        if not 0 <= address < 1 << 63:
            raise BadAddress(address, size)
        return address.to_bytes(8, "little")


# What is more than a byte long, too: jumps backwards (DW_OP_skip, DW_OP_bra) and long numbers.
OPERATIONS = st.one_of(
    st.binary(max_size=4),
    st.sampled_from([b"\x12", b"\x06", b"\x1e", b"\x24", b"\x2f\xfd\xff", b"\x28\xf0\xff", b"\x10" + b"\xff" * 40]),
)
REGISTERS = st.lists(st.integers(0, 2**64 - 1) | st.none(), min_size=17, max_size=17)


@tries(300)
@given(st.lists(OPERATIONS, max_size=60).map(b"".join), REGISTERS)
def test_expression_that_makes_no_sense(expression, registers):
    """It is computed, or refused, in few steps and with small numbers."""
    assert_is_computed_or_refused(expression, registers)


@pytest.mark.parametrize(
    "expression",
    [b"\x11" + b"\xff" * 30000 + b"\x00\x2f" + struct.pack("<h", -30005), b"\x30" + b"\x12" * 2000, b"\x10" + b"\x80" * 65536],
    ids=["long number in a circle", "duplicates", "long number"],
)
def test_expression_that_takes_long(expression):
    """Its numbers are not longer than numbers are: hours, otherwise."""
    assert_is_computed_or_refused(expression, [0] * 17)


def assert_is_computed_or_refused(expression, registers):
    memory = Counting()
    try:
        value = evaluate(expression, registers, memory, STACK)
    except (BadExpression, BadAddress):
        value = 0
    assert 0 <= value < 2**64
    assert memory.calls <= dwarf_expression.MAX_STEPS


BYTE = st.integers(0, 255)
CIES = st.builds(_Cie, NUMBERS, st.integers(-(2**63), 2**63), BYTE, st.booleans(), st.booleans(), st.binary(max_size=40))
# DW_CFA_remember_state, _restore_state, and rules for registers that no processor has.
INSTRUCTIONS = st.lists(
    st.one_of(st.binary(max_size=4), st.sampled_from([b"\x0a", b"\x0b", b"\x07\xff\xff\x7f", b"\x0f\xff\x7f"])), max_size=60
).map(b"".join)


@tries(300)
@given(CIES, INSTRUCTIONS, NUMBERS)
def test_instructions_that_make_no_sense(cie, instructions, pc):
    """They lead to a row, or are refused; a table of rules has no more rows than there are registers."""
    try:
        row = run_instructions(Fde(0, 2**64 - 1, cie, instructions), pc)
    except BadUnwindInfo:
        return
    assert isinstance(row, Row)
    assert len(row.rules) <= 257


def test_instructions_that_take_long():
    """To remember thousands of rules thousands of times is refused."""
    rules = b"".join(b"\x07" + bytes([0x80 | number & 127, number >> 7]) for number in range(8000))
    cie = _Cie(1, 1, 0, False, False, b"")
    with pytest.raises(BadUnwindInfo, match="registers"):
        run_instructions(Fde(0, 2**64 - 1, cie, rules + b"\x0a\x0b" * 16000), 2**63)


TABLES = st.binary(max_size=200)
VERSIONS = st.sampled_from([(3, minor) for minor in range(8, 16)])


@tries(300)
@given(VERSIONS, TABLES, st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**64))
def test_line_table_that_makes_no_sense(version, table, first_line, offset):
    """There is a line, or none; and it is not farther off than the table is long."""
    line = find_line(version, table, first_line, offset)

    assert line is None or abs(line - first_line) <= (len(table) + 1) << 36


@tries(300)
@given(VERSIONS.filter(lambda version: version >= (3, 11)), TABLES, st.integers(-10, 2**64), st.data())
def test_exception_table_that_makes_no_sense(version, table, offset, data):
    """Entries that lead round in circles end, too."""
    layout = find_layout(version, debug=False, free_threaded=False)
    entries = list(parse_exception_table(table))
    assert len(entries) <= len(table) // 4
    first_bytes = {entry.target: data.draw(st.binary(min_size=4, max_size=4)) for entry in entries}
    for place in [offset, *(entry.start for entry in entries)]:
        try:
            blocks = find_table_blocks(layout, entries, first_bytes, place)
        except BadAddress:
            continue
        assert isinstance(blocks, Blocks)
