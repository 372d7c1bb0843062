"""Our ELF reader agrees with pyelftools, and no file can make it fail otherwise than by saying so."""

import ctypes.util
import glob
import os
import random
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from threadsurgeon.linux.elf import PT_DYNAMIC, PT_LOAD, ElfFile, NotElf

SEED = 20240229


def found_files():
    """Files with an interpreter or a C library in them, each once."""
    with open("/proc/self/maps") as maps:
        mapped = {line.split()[-1] for line in maps if "/" in line}
    names = [path for path in mapped if any(part in os.path.basename(path) for part in ("libc.so", "libpython", "ld-"))]
    names += [sys.executable, "/bin/sh"]
    libraries = "/usr/lib/x86_64-linux-gnu/libpython3.*.so.1.0"
    for pattern in ("/usr/bin/python3.*", libraries, "~/.pyenv/versions/3.*/bin/python3.*"):
        names += glob.glob(os.path.expanduser(pattern))
    real = {os.path.realpath(name) for name in names}
    return sorted(path for path in real if Path(path).read_bytes()[:4] == b"\x7fELF")


FILES = found_files()


@pytest.fixture(scope="module", params=FILES)
def both(request):
    """The same file, read by us and by pyelftools."""
    with open(request.param, "rb") as file:
        yield ElfFile(request.param), ELFFile(file)


@pytest.fixture(scope="module")
def small():
    """A small real library: its bytes, and names it defines."""
    path = os.path.realpath(f"/lib/x86_64-linux-gnu/{ctypes.util.find_library('rt') or 'librt.so.1'}")
    if not os.path.exists(path):
        path = min(FILES, key=os.path.getsize)
    with open(path, "rb") as file:
        table = ELFFile(file).get_section_by_name(".dynsym")
        names = [s.name for s in table.iter_symbols() if s["st_shndx"] != "SHN_UNDEF" and s.name]
        return Path(path).read_bytes(), names[:5] or ["main"]


def dynamic_symbols(judge):
    return list(judge.get_section_by_name(".dynsym").iter_symbols())


def test_interpreter_was_found():
    """At least the file that runs these tests is tried."""
    assert os.path.realpath(sys.executable) in FILES


def test_defined_symbols_have_the_address_pyelftools_says(both):
    """Every so many defined symbols of the file, at its value."""
    ours, judge = both
    values = {}
    for symbol in dynamic_symbols(judge):
        if symbol["st_shndx"] != "SHN_UNDEF" and symbol.name:
            values.setdefault(symbol.name, set()).add(symbol["st_value"])  # versions of one name have several
    chosen = sorted(values)[:: max(1, len(values) // 100)]
    chosen += [name for name in ("_PyRuntime", "PyErr_SetNone", "Py_Version", "PyCode_Type") if name in values]

    assert chosen or not values
    assert [name for name in chosen if ours.symbol(name) not in values[name]] == []


def test_undefined_symbols_have_no_address(both):
    """What a file only imports is not in it."""
    ours, judge = both
    symbols = dynamic_symbols(judge)
    defined = {s.name for s in symbols if s["st_shndx"] != "SHN_UNDEF"}
    imported = [s.name for s in symbols if s["st_shndx"] == "SHN_UNDEF" and s.name and s.name not in defined]

    assert [name for name in imported[:100] if ours.symbol(name) is not None] == []


@pytest.mark.parametrize("name", ["", "no_such_symbol", "_PyRuntim", "_PyRuntime2", "ä", "x" * 10_000])
def test_absent_symbols_have_no_address(name):
    """Neither a prefix nor a longer name is the symbol."""
    assert ElfFile(sys.executable).symbol(name) is None


def test_load_segments_are_those_of_pyelftools(both):
    """Addresses, offsets, sizes and flags, in order."""
    ours, judge = both
    expected = [
        (s["p_offset"], s["p_vaddr"], s["p_filesz"], s["p_memsz"], s["p_flags"])
        for s in judge.iter_segments()
        if s["p_type"] == "PT_LOAD"
    ]

    assert expected == [(s.offset, s.address, s.file_size, s.memory_size, s.flags) for s in ours.loads]


def test_build_id_is_that_of_pyelftools(both):
    """The note's bytes, or None."""
    ours, judge = both
    section = judge.get_section_by_name(".note.gnu.build-id")
    expected = None if section is None else bytes.fromhex(next(section.iter_notes())["n_desc"])

    assert expected == ours.build_id()


def test_load_bias_leads_from_the_file_to_this_process():
    """An address that ctypes knows is found again by symbol and bias."""
    libc = next(path for path in FILES if os.path.basename(path).startswith("libc"))
    with open("/proc/self/maps") as maps:
        line = next(line for line in maps if line.rstrip().endswith(libc))
    start, offset = int(line.split("-")[0], 16), int(line.split()[2], 16)
    elf = ElfFile(libc)
    bias = elf.load_bias(start, offset)

    assert ctypes.cast(ctypes.CDLL(None).getpid, ctypes.c_void_p).value == elf.symbol("getpid") + bias
    assert elf.load_bias(start, 0x7FFF000) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x7fELF",
        b"\x7fELF\x02\x01" + bytes(40),
        b"#!/usr/bin/env python3\n" + b"# text\n" * 100,
        b"\x7fELF\x01\x01\x01" + bytes(200),
        b"\x7fELF\x02\x02\x01" + bytes(200),
        os.urandom(4096).replace(b"\x7fELF", b""),
    ],
    ids=["empty", "magic only", "short", "text", "32-bit", "big-endian", "random"],
)
def test_other_files_are_not_elf(tmp_path, content):
    """What is not a 64-bit little-endian ELF file is refused by that name."""
    path = tmp_path / "file"
    path.write_bytes(content)

    with pytest.raises(NotElf):
        ElfFile(str(path))


def test_missing_file_and_directory_are_the_systems_errors(tmp_path):
    """A file that cannot be opened is not called damaged."""
    with pytest.raises(FileNotFoundError):
        ElfFile(str(tmp_path / "none"))
    with pytest.raises((OSError, NotElf)):
        ElfFile(str(tmp_path))


def probe(path, names):
    """Ask everything of a file that may be damaged: NotElf, or answers."""
    try:
        elf = ElfFile(str(path))
    except NotElf:
        return
    for name in names:
        assert elf.symbol(name) is None or elf.symbol(name) >= 0
    assert elf.build_id() is None or isinstance(elf.build_id(), bytes)
    assert elf.local_function(0x1000) is None or isinstance(elf.local_function(0x1000), str)
    assert elf.load_bias(0x1000, 0) is None or isinstance(elf.load_bias(0x1000, 0), int)


def test_functions_that_are_not_exported_have_their_names_until_they_are_stripped(tmp_path):
    """As the file's full symbol table says; of copies that the compiler made, the name of what was copied."""
    if not shutil.which("gcc"):
        pytest.skip("no compiler")
    path = tmp_path / "program"
    source = "static __attribute__((noinline)) int local(int n) { return n * n; }\nint main(int n) { return local(n); }"
    subprocess.run(["gcc", "-x", "c", "-", "-o", path], input=source, text=True, check=True)
    with path.open("rb") as file:
        symbols = list(ELFFile(file).get_section_by_name(".symtab").iter_symbols())
    functions = [s for s in symbols if s["st_info"]["type"] == "STT_FUNC" and s["st_shndx"] != "SHN_UNDEF"]
    names = {s["st_value"]: set() for s in functions}
    for symbol in functions:
        names[symbol["st_value"]].add(symbol.name.partition(".")[0])
    elf = ElfFile(str(path))
    subprocess.run(["strip", "-o", tmp_path / "stripped", path], check=True)
    stripped = ElfFile(str(tmp_path / "stripped"))

    assert {"local"} in names.values()
    assert [(address, known) for address, known in names.items() if elf.local_function(address) not in known] == []
    assert elf.local_function(1) is None
    assert [address for address in names if stripped.local_function(address)] == []


def test_symbol_table_of_nothing_but_one_address_is_given_up(tmp_path, small):
    """However large it is: the file is the target's."""
    content, size = bytearray(small[0]), 64 << 20
    header = struct.pack("<IIQQQQIIQQ", 0, 2, 0, 0, len(content) + 64, size, 0, 0, 8, 24)
    content[40:48], content[58:62] = struct.pack("<Q", len(content)), struct.pack("<HH", 64, 1)
    path = tmp_path / "file"
    path.write_bytes(content + header)
    os.truncate(path, len(content) + 64 + size)
    begin = time.process_time()

    assert ElfFile(str(path)).local_function(0) is None
    assert time.process_time() - begin < 2


def test_truncated_files_are_read_as_far_as_they_go(tmp_path, small):
    """Cut anywhere, a file is NotElf or has no such symbol."""
    content, names = small
    path = tmp_path / "file"
    for size in {*range(0, 1024, 24), *range(1024, len(content), max(1, len(content) // 40))}:
        path.write_bytes(content[:size])
        probe(path, names)


def test_damaged_files_never_crash_or_hang(tmp_path, small):
    """Random bytes in what the look-ups follow: header, program headers, dynamic section, hash tables."""
    content, names = small
    dice = random.Random(SEED)
    path = tmp_path / "file"
    path.write_bytes(content)
    dynamic = next(s for s in ElfFile(str(path)).segments if s.type == PT_DYNAMIC)
    areas = [(0, 64), (64, 700), (700, min(len(content), 8192)), (dynamic.offset, dynamic.offset + dynamic.file_size)]
    begin = time.monotonic()
    for _ in range(500):
        damaged = bytearray(content)
        for _ in range(dice.choice([1, 2, 8])):
            start, end = dice.choice(areas)
            damaged[dice.randrange(start, end)] = dice.choice([0, 0xFF, 0x80, dice.randrange(256)])
        path.write_bytes(damaged)
        probe(path, names)

    assert time.monotonic() - begin < 20


@pytest.mark.parametrize("value", [0, 1, 2**31, 2**63 - 1, 2**63, 2**64 - 1])
def test_program_headers_outside_of_the_file_are_refused(tmp_path, small, value):
    """However far outside, and where the number does not fit an index."""
    content, _ = small
    path = tmp_path / "file"
    path.write_bytes(content[:32] + struct.pack("<Q", value) + content[40:])

    probe(path, ["main"])


def make_elf(tables, symbols, strings, without=None):
    """A minimal ELF file: one load segment with everything, address = offset."""
    places, body, position = {}, b"", 64 + 2 * 56 + 16 * (len(tables) + 3)
    for tag, content in [*tables.items(), (6, symbols), (5, strings)]:
        places[tag] = position + len(body)
        body += content + bytes(-len(content) % 8)
    places.pop(without, None)
    entries = b"".join(struct.pack("<qQ", *entry) for entry in [*places.items(), (0, 0)])
    size = position + len(body)
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", PT_LOAD, 6, 0, 0, 0, size, size, 4096)
    dyn = struct.pack("<IIQQQQQQ", PT_DYNAMIC, 6, 176, 176, 176, len(entries), len(entries), 8)
    return (header + load + dyn + entries).ljust(position, b"\0") + body


def symbol_entry(name, section, value):
    return struct.pack("<IBBHQQ", name, 0x12, 0, section, value, 8)


def test_old_hash_table_is_followed(tmp_path):
    """Where only DT_HASH is there (musl, old linkers), through a chain with a collision."""
    symbols = bytes(24) + symbol_entry(1, 1, 0x111) + symbol_entry(5, 1, 0x222) + symbol_entry(9, 0, 0x333)
    chain = struct.pack("<IIIIIII", 1, 4, 3, 0, 0, 1, 2)  # one bucket: 3 → 2 → 1
    path = tmp_path / "file"
    path.write_bytes(make_elf({4: chain}, symbols, b"\0one\0two\0six\0"))
    elf = ElfFile(str(path))

    assert [elf.symbol(name) for name in ("one", "two", "six", "ten")] == [0x111, 0x222, None, None]


def test_cycle_in_an_old_hash_table_ends(tmp_path):
    """A chain that leads back to itself, in a table that claims four billion links."""
    chain = struct.pack("<IIIII", 1, 0xFFFFFFFF, 1, 0, 1)
    path = tmp_path / "file"
    path.write_bytes(make_elf({4: chain}, bytes(24) + symbol_entry(1, 1, 0x111), b"\0one\0"))
    begin = time.monotonic()

    assert ElfFile(str(path)).symbol("absent") is None
    assert time.monotonic() - begin < 1


@pytest.mark.parametrize("missing", [5, 6])
def test_dynamic_section_without_a_symbol_table_has_no_symbols(tmp_path, missing):
    """A hash table alone leads nowhere."""
    tables, symbols = {4: struct.pack("<IIIII", 1, 2, 1, 0, 0)}, bytes(24) + symbol_entry(1, 1, 0x111)
    path, whole = tmp_path / "file", tmp_path / "whole"
    path.write_bytes(make_elf(tables, symbols, b"\0one\0", without=missing))
    whole.write_bytes(make_elf(tables, symbols, b"\0one\0"))

    assert ElfFile(str(whole)).symbol("one") == 0x111
    assert ElfFile(str(path)).symbol("one") is None
