"""Which functions hold a copy of another one, those that compare a pointer with its address, and where they do."""

import struct
from types import SimpleNamespace

import pytest

from threadsurgeon.linux.function_names import FunctionNames

WANTED = 0x5710
OPERAND = struct.pack("<I", WANTED)
SIZE = 0x40
COMPARES, KEEPS, LOADS, CALLS = (0x1000 + number * SIZE for number in range(4))
NOPS = b"\x90" * 8


def code():
    """Four functions of 64 bytes."""
    in_memory = b"\x48\x81\x3d" + bytes(4) + OPERAND  # cmpq $address,x(%rip)
    compare = NOPS + b"\x48\x3d" + OPERAND + b"\x48\x81\xfb" + OPERAND + in_memory  # cmp with rax, rbx and memory
    keep = b"\x48\x3d" + OPERAND + b"\xba" + OPERAND  # cmp $address,%rax; mov $address,%edx
    load = b"\x48\x8d\x15" + struct.pack("<i", WANTED - (LOADS + 7))  # lea address(%rip),%rdx
    call = b"\xe8" + struct.pack("<i", WANTED - (CALLS + 5))
    return b"".join(part.ljust(SIZE, b"\x90") for part in (compare, keep, load, call))


@pytest.mark.parametrize(
    ("bias", "expected"),
    [
        (0, {COMPARES: (COMPARES + 8, COMPARES + 14, COMPARES + 21), KEEPS: (), LOADS: ()}),
        (0x7F0000000000, {LOADS: ()}),  # a library is mapped anywhere: there no operand can be the address itself
    ],
)
def test_address_that_is_not_called_tells(bias, expected):
    """Where it is kept in a register it is not clear where it is compared."""
    content = code()
    segment = SimpleNamespace(flags=5, address=COMPARES, file_size=len(content))
    elf = SimpleNamespace(loads=[segment], content=lambda address, size: content[address - COMPARES :][:size])
    image = SimpleNamespace(elf=elf, bias=bias, file=SimpleNamespace(start=1))
    table = SimpleNamespace(find=lambda place: SimpleNamespace(start=place // SIZE * SIZE))
    names = FunctionNames(SimpleNamespace(table=lambda image: table), memory=None)

    assert names.mentioning(image, [WANTED + bias]) == {start + bias: made for start, made in expected.items()}
