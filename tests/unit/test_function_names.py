"""Which functions hold a copy of another one: those that compare a pointer with its address."""

import struct
from types import SimpleNamespace

import pytest

from threadsurgeon.linux.function_names import FunctionNames

WANTED = 0x5710
COMPARES, LOADS, CALLS = 0x1000, 0x1040, 0x1080
SIZE = 0x40


def code():
    """Three functions of 64 bytes: one has the address as an operand, one relative to itself, and one only calls it."""
    compare = b"\x48\x3d" + struct.pack("<I", WANTED)  # cmp $address,%rax
    load = b"\x48\x8d\x15" + struct.pack("<i", WANTED - (LOADS + 7))  # lea address(%rip),%rdx
    call = b"\xe8" + struct.pack("<i", WANTED - (CALLS + 5))
    return b"".join(part.ljust(SIZE, b"\x90") for part in (compare, load, call))


@pytest.mark.parametrize(("bias", "expected"), [(0, {COMPARES, LOADS}), (0x7F0000000000, {LOADS})])
def test_address_that_is_not_called_tells(bias, expected):
    """A library is mapped anywhere: there no operand can be the address itself."""
    content = code()
    segment = SimpleNamespace(flags=5, address=COMPARES, file_size=len(content))
    elf = SimpleNamespace(loads=[segment], content=lambda address, size: content[address - COMPARES :][:size])
    image = SimpleNamespace(elf=elf, bias=bias, file=SimpleNamespace(start=1))
    table = SimpleNamespace(find=lambda place: SimpleNamespace(start=place // SIZE * SIZE))
    names = FunctionNames(SimpleNamespace(table=lambda image: table), memory=None)

    assert names.mentioning(image, [WANTED + bias]) == {start + bias for start in expected}
