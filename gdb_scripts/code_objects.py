"""Code objects of the stopped process (CPython 3.11 on), read by the offsets that the look plane sends along."""

from __future__ import annotations

from dataclasses import dataclass

import gdb

from .exception_table import without_handlers
from .machine import WORD, read_number

INSTRUCTION_SIZE = 2
MOST_BYTES = 1 << 20
MANY = 1 << 30  # references: nobody ends the life of what is not on the heap


@dataclass(frozen=True)
class CodeReader:
    """Offsets in a code object and in a bytes object; ``push_exc_info`` is the opcode of that name."""

    co_exceptiontable: int
    co_code_adaptive: int
    ob_refcnt: int
    ob_size: int
    ob_sval: int
    push_exc_info: int

    def read_table(self, code: int) -> tuple[int, bytes]:
        """Return the address of the code's exception table, and a bytes object that is a table without handlers."""
        table = read_number(code + self.co_exceptiontable)
        size = read_number(table + self.ob_size)
        if size > MOST_BYTES:
            raise gdb.GdbError(f"mismatch: the exception table of code object {code:#x} has {size} bytes")
        memory = gdb.selected_inferior()
        whole = bytes(memory.read_memory(table, self.ob_sval + size))
        start = code + self.co_code_adaptive

        def read_opcode(instruction: int) -> int:
            return read_number(start + instruction * INSTRUCTION_SIZE, 1)

        content = without_handlers(whole[self.ob_sval :], read_opcode, self.push_exc_info)
        head = bytearray(whole[: self.ob_sval])  # type and hash as they are
        head[self.ob_refcnt : self.ob_refcnt + WORD] = MANY.to_bytes(WORD, "little")
        head[self.ob_size : self.ob_size + WORD] = len(content).to_bytes(WORD, "little")
        return table, bytes(head) + content + bytes(1)
