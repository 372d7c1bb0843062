"""Unwind rules, as pyelftools decodes them and as made by hand; and the stack walked by them."""

import itertools
import random
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from elftools.dwarf.callframe import FDE
from elftools.elf.elffile import ELFFile

from tests.unit.fake_memory import FakeMemory
from threadsurgeon.linux.dwarf_expression import BadExpression, evaluate
from threadsurgeon.linux.eh_frame import BadUnwindInfo, Fde, Rule, UnwindTable, _Cie, run_instructions
from threadsurgeon.linux.elf import ElfFile
from threadsurgeon.linux.mappings import iterate_images
from threadsurgeon.linux.memory import ProcessMemory
from threadsurgeon.linux.unwind import NAMES, RIP, RSP, CannotUnwind, CodeMap, as_registers, walk


def own_libraries():
    """The C library and whatever holds the interpreter that runs us."""
    import os

    images = list(iterate_images(os.getpid()))
    libc = [image.file.path for image in images if "libc.so" in image.file.path or "libc-" in image.file.path]
    return sorted({images[0].file.path, *libc[:1]})


def judged(path, most=300):
    """Functions of a file as pyelftools decodes them: (start, end, rows of its table)."""
    with open(path, "rb") as file:
        entries = [entry for entry in ELFFile(file).get_dwarf_info().EH_CFI_entries() if isinstance(entry, FDE)]
        random.Random(1).shuffle(entries)
        for entry in entries[:most]:
            start = entry.header["initial_location"]
            yield start, start + entry.header["address_range"], entry.get_decoded().table


@pytest.mark.parametrize("path", own_libraries())
def test_rules_are_those_that_pyelftools_decodes(path):
    """At the first address of each row, and at the last one before the next."""
    table = UnwindTable(ElfFile(path))
    compared = 0
    for start, end, rows in judged(path):
        fde = table.find(start)
        assert fde is not None
        assert (fde.start, fde.end) == (start, end)
        for index, row in enumerate(rows):
            following = rows[index + 1]["pc"] if index + 1 < len(rows) else end
            for pc in {row["pc"], following - 1}:
                if not row["pc"] <= pc < following:
                    continue  # two rows for one address
                ours, theirs = table.row(fde, pc), row["cfa"]
                if theirs.expr is None:
                    assert (ours.cfa_register, ours.cfa_offset) == (theirs.reg, theirs.offset)
                else:
                    assert list(ours.cfa_expression) == list(theirs.expr)
                offsets = {
                    register: rule.arg
                    for register, rule in row.items()
                    if isinstance(register, int) and rule.type == "OFFSET"
                }
                assert {register: rule.value for register, rule in ours.rules.items() if rule.kind == "offset"} == offsets
                compared += 1

    assert compared > 300


def test_between_functions_there_is_nothing():
    """Outside of the code, no entry is found, and none is read."""
    table = UnwindTable(ElfFile(own_libraries()[0]))

    assert table.find(0) is None
    assert table.find(1 << 60) is None
    assert table.starts == sorted(table.starts)


def fde(instructions, initial=b"\x0c\x07\x08\x90\x01"):  # DW_CFA_def_cfa rsp+8, DW_CFA_offset of the return address
    return Fde(0x1000, 0x1100, _Cie(1, -8, 0x1B, True, False, initial), instructions)


@pytest.mark.parametrize(
    ("instructions", "pc", "cfa", "rules"),
    [
        (b"", 0x1000, (7, 8), {}),
        (b"\x41\x0e\x10\x86\x02", 0x1000, (7, 8), {}),  # what comes later does not count yet
        (b"\x41\x0e\x10\x86\x02", 0x1001, (7, 16), {6: Rule("offset", -16)}),
        (b"\x02\x80\x0d\x06", 0x1080, (6, 8), {}),  # DW_CFA_advance_loc1, DW_CFA_def_cfa_register
        (b"\x03\x00\x01\x0d\x06", 0x10FF, (7, 8), {}),
        (b"\x0a\x0e\x20\x83\x03\x0b", 0x1000, (7, 8), {}),  # remember, change, restore
        (b"\x83\x03\x41\xc3", 0x1001, (7, 8), {}),  # DW_CFA_restore: as it was at first
        (b"\x05\x0c\x04\x07\x03\x09\x0d\x05", 0x1000, (7, 8),
         {12: Rule("offset", -32), 3: Rule("undefined"), 13: Rule("register", 5)}),
        (b"\x11\x0c\x7f\x14\x03\x02\x15\x06\x7e", 0x1000, (7, 8),
         {12: Rule("offset", 8), 3: Rule("val_offset", -16), 6: Rule("val_offset", 16)}),
        (b"\x12\x06\x7f\x2e\x08\x00", 0x1000, (6, 8), {}),
        (b"\x10\x03\x02\x77\x08\x16\x06\x01\x30", 0x1000, (7, 8),
         {3: Rule("expression", 0, b"\x77\x08"), 6: Rule("val_expression", 0, b"\x30")}),
    ],
)  # fmt: skip
def test_instructions_by_hand(instructions, pc, cfa, rules):
    """Each kind of instruction that compilers write."""
    row = run_instructions(fde(instructions), pc)

    assert (row.cfa_register, row.cfa_offset) == cfa
    assert row.rules == {16: Rule("offset", -8), **rules}


@pytest.mark.parametrize("instructions", [b"\x0b", b"\x3f", b"\x01", b"\x02", b"\x0c\x80", b"\x0f\x7f\x00", b"\x0a" * 100])
def test_nonsense_is_an_error(instructions):
    """Never anything but BadUnwindInfo."""
    with pytest.raises(BadUnwindInfo):
        run_instructions(fde(instructions), 0x1050)


def test_random_instructions_end():
    """Whatever the bytes say."""
    source = random.Random(2)
    for _ in range(3000):
        try:
            run_instructions(fde(source.randbytes(source.randrange(60))), 0x1050)
        except BadUnwindInfo:
            pass


def test_damaged_file_has_no_unwind_information(tmp_path):
    """Every byte of the search table may be wrong, and those behind it."""
    whole = Path(own_libraries()[-1]).read_bytes()
    elf = ElfFile(own_libraries()[-1])
    (segment,) = [segment for segment in elf.segments if segment.type == 0x6474E550]
    source = random.Random(3)
    path = tmp_path / "file"
    for _ in range(40):
        damaged = bytearray(whole)
        for _ in range(20):
            damaged[segment.offset + source.randrange(2000)] = source.randrange(256)
        path.write_bytes(damaged)
        table = UnwindTable(ElfFile(str(path)))
        for start in UnwindTable(elf).starts[::97]:
            try:
                found = table.find(start)
                if found is not None:
                    table.row(found, start)
            except BadUnwindInfo:
                pass


REGISTERS = [None] * 17
REGISTERS[RSP], REGISTERS[RIP] = 0x1000, 0x401B


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        # What every .plt has: rsp + 8 + ((rip & 15) >= 11) * 8
        (b"\x77\x08\x80\x00\x3f\x1a\x3b\x2a\x33\x24\x22", 0x1010),
        (b"\x77\x7f", 0xFFF),
        (b"\x77\x00\x06", 0xABCD),
        (b"\x31\x1f", (1 << 64) - 1),
        (b"\x30\x28\x02\x00\x32\x33\x34", 4),
        (b"\x35\x12\x1e\x23\x80\x01", 25 + 128),
    ],
)
def test_expressions(expression, value):
    """As computed by hand."""
    memory = FakeMemory({0x1000: struct.pack("<Q", 0xABCD)})

    assert evaluate(expression, REGISTERS, memory) == value


@pytest.mark.parametrize("expression", [b"", b"\x22", b"\x70\x00", b"\x2f\xfd\xff", b"\x2f\x00\x80", b"\xff", b"\x0e\x01"])
def test_bad_expressions(expression):
    """Too short, without what it needs on its stack, unknown registers, and jumps in a circle."""
    with pytest.raises(BadExpression):
        evaluate(expression, REGISTERS, FakeMemory())


WAITER = """
import os
print("ready", flush=True)
os.read(0, 1)
"""


def test_stack_of_a_waiting_process_is_walked():
    """From a system call through libc into the interpreter. The kernel tells only rsp and rip: enough for the first steps."""
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(WAITER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"ready\n"
        line = ["running"]
        while line[0] != "0":  # read(2)
            line = Path(f"/proc/{process.pid}/syscall").read_text().split()
        values = [0] * len(NAMES)
        values[RSP], values[RIP] = int(line[7], 16), int(line[8], 16)
        frames = []
        try:
            frames.extend(walk(as_registers(values), CodeMap(iterate_images(process.pid)), ProcessMemory(process.pid)))
        except CannotUnwind:
            pass
    finally:
        process.communicate(b"x")

    assert len(frames) > 1
    assert "libc" in frames[0].code.image.file.path
    assert "python" in frames[1].code.image.file.path
    assert all(one.cfa < other.cfa for one, other in itertools.pairwise(frames))


def test_walk_of_nonsense_ends():
    """No code at the program counter, or a number of registers that is not ours."""
    with pytest.raises(CannotUnwind):
        list(walk(as_registers([0] * 17), CodeMap([]), FakeMemory()))
    with pytest.raises(CannotUnwind):
        as_registers([0] * 3)
