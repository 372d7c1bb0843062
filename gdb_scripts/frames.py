"""The Python frame that the stopped thread runs, read by the offsets that the look plane sends along."""

from __future__ import annotations

from dataclasses import dataclass

from .machine import read_number, write_number

# FRAME_OWNED_BY_CSTACK (3.12, 3.13) and FRAME_OWNED_BY_INTERPRETER (3.14 on): the entry of the C function that runs frames.
FIRST_INTERNAL_OWNER = 3
TAG_MASK = ~7  # since 3.14 a frame refers to its code by a _PyStackRef, whose lowest bits are a tag
MAX_INTERNAL = 4

# PyTryBlock (3.8 to 3.10): int b_type, b_handler, b_level.
BLOCK_SIZE = 12
SETUP_FINALLY = 122  # the opcode that made a block with a handler; what else there is (EXCEPT_HANDLER) tidies up
NO_BLOCK = 0
MAX_BLOCKS = 20  # CO_MAXBLOCKS


@dataclass(frozen=True)
class Frame:
    """A frame as addresses; ``instruction`` is as the look plane has it."""

    address: int
    parent: int
    code: int
    instruction: int


@dataclass(frozen=True)
class FrameReader:
    """Offsets, in bytes. ``path``: from the address of a field of the thread state to the current frame.

    ``frame_object`` is None where frames are objects themselves (3.8 to 3.10); ``blocks`` is None where they are not.
    """

    path: list[int]
    frame_object: int | None
    previous: int
    code: int
    instruction: int
    instruction_size: int
    owner: int | None
    blocks: list[int] | None

    def read_current(self, frame_object: int) -> Frame | None:
        """Return the frame that the thread runs, if it is the one of this PyFrameObject."""
        first, *rest = self.path
        address = read_number(first)
        for offset in rest:
            address = read_number(address + offset)
        if not address or (address if self.frame_object is None else read_number(address + self.frame_object)) != frame_object:
            return None
        return Frame(
            address,
            self._find_parent(address),
            read_number(address + self.code) & TAG_MASK,
            self._read_instruction(address),
        )

    def _find_parent(self, address: int) -> int:
        parent = read_number(address + self.previous)
        for _ in range(MAX_INTERNAL):
            if not parent or self.owner is None or read_number(parent + self.owner, 1) < FIRST_INTERNAL_OWNER:
                break
            parent = read_number(parent + self.previous)
        return parent

    def _read_instruction(self, address: int) -> int:
        value = read_number(address + self.instruction, self.instruction_size)
        return value if self.instruction_size == 8 or value < 1 << 31 else value - (1 << 32)

    def drop_handlers(self, frame: Frame) -> None:
        """Take the handlers out of the frame's block stack (3.8 to 3.10), for good: the frame unwinds now.

        Blocks of except clauses that run stay: leaving them puts ``sys.exc_info()`` back and runs no code of the frame.
        """
        assert self.blocks is not None
        count_offset, stack_offset = self.blocks
        count = read_number(frame.address + count_offset, 4)
        for number in range(min(count, MAX_BLOCKS)):
            block = frame.address + stack_offset + number * BLOCK_SIZE
            if read_number(block, 4) == SETUP_FINALLY:
                write_number(block, NO_BLOCK, 4)
