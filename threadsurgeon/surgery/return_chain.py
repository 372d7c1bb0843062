"""Has a thread return into functions that it was never called from: a chain of return addresses on a stack of its own.

The thread pops the chain's words one by one, runs each function in it, and ends up where it would have been had the
cut frames just returned, all by itself and after the detach. The chain lies below everything the thread uses of its stack, so
writing it changes nothing yet; two registers, ``rsp`` and ``rip``, then set it going. Only instruction sequences that are in
the target anyway are used: how every function of some size ends, and parts of that, as a processor may be told to begin
in the midst of an instruction.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from threadsurgeon.errors import UnsupportedPython
from threadsurgeon.linux.memory import BadAddress, Memory

RED_ZONE = 128  # x86-64 psABI 3.2.2: below the stack pointer, and still the function's
STACK_ALIGNMENT = 16
_CHUNK = 1 << 20
# pop %rbx; pop %rbp; pop %r12; pop %r13; pop %r14; pop %r15; ret
_POP_SAVED = b"\x5b\x5d\x41\x5c\x41\x5d\x41\x5e\x41\x5f\xc3"
_POP_RDI = b"\x5f\xc3"  # the end of that: pop %r15 is 41 5f
_RETURN = b"\xc3"
_POP_RSP = b"\x5c\xc3"  # the end of pop %r12; ret
_POP_RAX = b"\x58\xc3"


@dataclass(frozen=True, slots=True)
class Pieces:
    """Where the target has the instruction sequences that a chain needs."""

    pop_saved: int
    pop_rdi: int
    return_: int
    pop_rsp: int
    pop_rax: int


def find_pieces(memory: Memory, ranges: Iterable[tuple[int, int]]) -> Pieces:
    """Find the instruction sequences in these (address, size) ranges of executable memory.

    Raises:
        UnsupportedPython: one of them is nowhere.
    """
    wanted = {"pop_saved": _POP_SAVED, "pop_rsp": _POP_RSP, "pop_rax": _POP_RAX}
    found: dict[str, int] = {}
    for start, size in ranges:
        for offset in range(0, size, _CHUNK):
            try:  # a little more, for a sequence that lies across
                code = memory.read(start + offset, min(_CHUNK + len(_POP_SAVED), size - offset))
            except BadAddress:
                continue
            for name, sequence in wanted.items():
                position = code.find(sequence)
                if name not in found and position >= 0:
                    found[name] = start + offset + position
            if len(found) == len(wanted):
                end = found["pop_saved"] + len(_POP_SAVED)
                return Pieces(
                    pop_rdi=end - len(_POP_RDI), return_=end - len(_RETURN), **found
                )
    missing = ", ".join(name for name in wanted if name not in found)
    raise UnsupportedPython(f"the code of this process lacks an instruction sequence that we need: {missing}")


@dataclass(slots=True)
class Chain:
    """A chain that ends by returning through ``return_slot``, where the return address of the outermost cut frame is."""

    pieces: Pieces
    saved_registers: Sequence[int]
    return_slot: int
    _words: list[tuple[int, bool]] = field(default_factory=list)

    def call(self, function: int, argument: int) -> None:
        """Run ``function(argument)``."""
        self._words += [(self.pieces.pop_rdi, False), (argument, False), (function, True)]

    def build(self, result: int, stack_pointer: int) -> tuple[int, bytes]:
        """Return (address, content) of the chain that ends with ``result`` as what the cut frames return.

        It lies below the given stack pointer. The thread is to go on at ``pieces.pop_saved`` with that address as its own.
        """
        words = [*((register, False) for register in self.saved_registers), *self._words]
        words += [(self.pieces.pop_rax, False), (result, False), (self.pieces.pop_rsp, False), (self.return_slot, False)]
        # The chain's own address is a multiple of 16. Whoever is returned to finds the stack pointer behind its address; a
        # function wants it 8 beyond a multiple of 16, as after a call.
        placed: list[int] = []
        for word, is_function in words:
            if is_function and len(placed) % 2:
                # Another return before the function's address shifts it by one word.
                placed.append(self.pieces.return_)
            placed.append(word)
        address = (stack_pointer - RED_ZONE - 8 * len(placed)) // STACK_ALIGNMENT * STACK_ALIGNMENT
        return address, struct.pack(f"<{len(placed)}Q", *(word & (1 << 64) - 1 for word in placed))
