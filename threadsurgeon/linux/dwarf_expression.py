"""Computes a DWARF expression: the few unwind rules that are no plain offset, as those of every ``.plt``.

DWARF 5, section 2.5, as far as it occurs in ``.eh_frame`` on x86-64. Bounded, whatever the expression says.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable, Sequence

from threadsurgeon.linux.memory import Memory

MASK = (1 << 64) - 1
MAX_STEPS = 1000

_CONSTANTS = {0x03: "<Q", 0x08: "<B", 0x09: "<b", 0x0A: "<H", 0x0B: "<h", 0x0C: "<I", 0x0D: "<i", 0x0E: "<Q", 0x0F: "<q"}


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


_BINARY: dict[int, Callable[[int, int], int]] = {
    0x1A: operator.and_,
    0x1C: operator.sub,
    0x1E: operator.mul,
    0x21: operator.or_,
    0x22: operator.add,
    0x24: lambda one, other: one << min(other, 64),
    0x25: lambda one, other: one >> min(other, 64),
    0x26: lambda one, other: _signed(one) >> min(other, 64),
    0x27: operator.xor,
    0x29: lambda one, other: int(one == other),
    0x2A: lambda one, other: int(_signed(one) >= _signed(other)),
    0x2B: lambda one, other: int(_signed(one) > _signed(other)),
    0x2C: lambda one, other: int(_signed(one) <= _signed(other)),
    0x2D: lambda one, other: int(_signed(one) < _signed(other)),
    0x2E: lambda one, other: int(one != other),
}


class BadExpression(ValueError):
    """The expression makes no sense, or needs what is not known."""


def evaluate(expression: bytes, registers: Sequence[int | None], memory: Memory, *stack: int) -> int:
    """Return what the expression computes from the registers (by DWARF number), beginning with that stack.

    Raises:
        BadExpression: it makes no sense, or needs a register whose value is not known.
        BadAddress: it reads where nothing is.
    """
    try:
        return _evaluate(expression, registers, memory, list(stack))
    except (struct.error, IndexError):
        raise BadExpression("an expression ends too early, or its stack does") from None


def _evaluate(expression: bytes, registers: Sequence[int | None], memory: Memory, stack: list[int]) -> int:
    position = 0

    def unpack(format_: str) -> int:
        nonlocal position
        (value,) = struct.unpack_from(format_, expression, position)
        position += struct.calcsize(format_)
        return int(value)

    def leb(*, signed: bool) -> int:
        value = shift = 0
        while True:
            byte = unpack("<B")
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value - (1 << shift) if signed and byte & 0x40 else value
            if shift > 70:
                raise BadExpression("a number does not end")

    for _ in range(MAX_STEPS):
        if position >= len(expression):
            return stack[-1] & MASK
        opcode = unpack("<B")
        if opcode in _CONSTANTS:  # DW_OP_addr, DW_OP_const1u …
            stack.append(unpack(_CONSTANTS[opcode]) & MASK)
        elif opcode in (0x10, 0x11):  # DW_OP_constu, DW_OP_consts
            stack.append(leb(signed=opcode == 0x11) & MASK)
        elif 0x30 <= opcode <= 0x4F:  # DW_OP_lit0 …
            stack.append(opcode - 0x30)
        elif 0x70 <= opcode <= 0x8F or opcode == 0x92:  # DW_OP_breg0 …, DW_OP_bregx
            number = leb(signed=False) if opcode == 0x92 else opcode - 0x70
            base = registers[number]
            if base is None:
                raise BadExpression(f"register {number} is not known")
            stack.append((base + leb(signed=True)) & MASK)
        elif opcode == 0x06:  # DW_OP_deref
            stack.append(int.from_bytes(memory.read(stack.pop(), 8), "little"))
        elif opcode == 0x12:  # DW_OP_dup
            stack.append(stack[-1])
        elif opcode == 0x13:  # DW_OP_drop
            stack.pop()
        elif opcode == 0x14:  # DW_OP_over
            stack.append(stack[-2])
        elif opcode == 0x16:  # DW_OP_swap
            stack[-1], stack[-2] = stack[-2], stack[-1]
        elif opcode in (0x1F, 0x20):  # DW_OP_neg, DW_OP_not
            stack.append((-stack.pop() if opcode == 0x1F else ~stack.pop()) & MASK)
        elif opcode == 0x23:  # DW_OP_plus_uconst
            stack.append((stack.pop() + leb(signed=False)) & MASK)
        elif opcode in (0x28, 0x2F):  # DW_OP_bra, DW_OP_skip
            distance = unpack("<h")
            if opcode == 0x2F or stack.pop():
                position += distance
                if position < 0:
                    raise BadExpression("an expression jumps out of itself")
        elif opcode in _BINARY:
            other = stack.pop()
            stack.append(_BINARY[opcode](stack.pop(), other) & MASK)
        elif opcode != 0x96:  # DW_OP_nop
            raise BadExpression(f"unknown operation {opcode:#x}")
    raise BadExpression("an expression does not end")
