"""Native frames of a stopped thread: one step outwards at a time, from registers and memory.

gdb does not unwind for us: as we start it, it reads no file of the target's and so knows no unwind information.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from threadsurgeon.linux.dwarf_expression import MASK, BadExpression, evaluate
from threadsurgeon.linux.eh_frame import RETURN_ADDRESS, BadUnwindInfo, Fde, UnwindTable
from threadsurgeon.linux.mappings import Image
from threadsurgeon.linux.memory import BadAddress, Memory

# x86-64's registers by their DWARF numbers (psABI, figure 3.36); 16 is the return address, in the innermost frame the pc.
NAMES = ("rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp", *(f"r{number}" for number in range(8, 16)), "rip")
RBX, RBP, RSP, RIP = 3, 6, 7, RETURN_ADDRESS
CALLEE_SAVED = (RBX, RBP, 12, 13, 14, 15)
MAX_FRAMES = 512

Registers = tuple["int | None", ...]


class CannotUnwind(Exception):
    """What is on the stack cannot be followed; ``str(error)`` says why."""


class EndOfStack(CannotUnwind):
    """There is no caller: this is how every stack ends that was followed to its end."""


@dataclass(frozen=True, slots=True)
class Code:
    """A stretch of code with its own unwind information, at its place in the process."""

    image: Image
    fde: Fde

    @property
    def start(self) -> int:
        """Its first instruction's address: of a function, or of a part of one."""
        return self.fde.start + self.image.bias

    @property
    def end(self) -> int:
        """The address behind its last instruction."""
        return self.fde.end + self.image.bias


@dataclass(frozen=True, slots=True)
class NativeFrame:
    """One native frame.

    ``registers`` are by DWARF number, None where the value is lost, as of those that a function may use as it likes. ``cfa``
    is the stack pointer before its caller called it, and again when it has returned.
    """

    pc: int
    registers: Registers
    code: Code
    cfa: int

    @property
    def return_address_slot(self) -> int:
        """Where its return address is."""
        return self.cfa - 8


class CodeMap:
    """Finds the unwind information for any address in a process. Made before a stop: opening files takes time."""

    def __init__(self, images: Iterable[Image]) -> None:
        ranges = []
        for image in images:
            loads = image.elf.loads
            if loads:
                ranges.append((loads[0].address + image.bias, loads[-1].address + loads[-1].memory_size + image.bias, image))
        ranges.sort(key=lambda range_: range_[0])
        self._ranges = ranges
        self._starts = [start for start, _, _ in ranges]
        self._tables: dict[int, UnwindTable] = {}

    @property
    def images(self) -> list[Image]:
        """All images, by address."""
        return [image for _, _, image in self._ranges]

    def image(self, address: int) -> Image | None:
        """Return the image that holds the address."""
        index = bisect_right(self._starts, address) - 1
        if index >= 0 and address < self._ranges[index][1]:
            return self._ranges[index][2]
        return None

    def table(self, image: Image) -> UnwindTable:
        """Return the unwind information of the image."""
        table = self._tables.get(image.file.start)
        if table is None:
            table = self._tables[image.file.start] = UnwindTable(image.elf)
        return table

    def find(self, address: int) -> Code | None:
        """Return the code at the address; None where there is no unwind information, as in generated code and the vDSO.

        Raises:
            BadUnwindInfo: there is, and it makes no sense.
        """
        image = self.image(address)
        if image is None:
            return None
        fde = self.table(image).find(address - image.bias)
        return None if fde is None else Code(image, fde)


def make_frame(registers: Registers, code_map: CodeMap, memory: Memory, *, exact: bool) -> NativeFrame:
    """Return the frame in which a thread with these registers is.

    ``exact``: the pc is of the instruction to be executed next. Otherwise it is a return address, which may lie behind the
    function's end where the call was its last instruction.

    Raises:
        CannotUnwind: there is no unwind information, or it leads nowhere.
    """
    pc = registers[RIP]
    if pc is None:
        raise CannotUnwind("the program counter is not known")
    where = pc if exact else pc - 1
    try:
        code = code_map.find(where)
        if code is None:
            raise CannotUnwind(f"no unwind information for the code at {pc:#x}")
        row = code_map.table(code.image).row(code.fde, where - code.image.bias)
        if row.cfa_expression:
            cfa = evaluate(row.cfa_expression, registers, memory)
        else:
            base = registers[row.cfa_register] if 0 <= row.cfa_register < len(NAMES) else None
            if base is None:
                raise CannotUnwind(f"the frame at {pc:#x} depends on a register that is not known")
            cfa = (base + row.cfa_offset) & MASK
    except (BadUnwindInfo, BadExpression, BadAddress, IndexError) as error:
        raise CannotUnwind(f"the code at {pc:#x}: {error}") from None
    return NativeFrame(pc, registers, code, cfa)


def caller_registers(frame: NativeFrame, code_map: CodeMap, memory: Memory, *, exact: bool) -> Registers:
    """Return the registers as they will be when the frame's function has returned.

    Raises:
        EndOfStack: it is the outermost frame.
        CannotUnwind: its unwind information leads nowhere.
    """
    where = frame.pc if exact else frame.pc - 1
    try:
        row = code_map.table(frame.code.image).row(frame.code.fde, where - frame.code.image.bias)
        known: list[int | None] = [None] * len(NAMES)
        for register in CALLEE_SAVED:
            known[register] = frame.registers[register]
        known[RSP] = frame.cfa
        for register, rule in row.rules.items():
            if not 0 <= register < len(NAMES):
                continue
            if rule.kind == "offset":
                known[register] = _read(memory, frame.cfa + rule.value)
            elif rule.kind == "val_offset":
                known[register] = (frame.cfa + rule.value) & MASK
            elif rule.kind == "register":
                known[register] = frame.registers[rule.value]
            elif rule.kind == "expression":
                known[register] = _read(memory, evaluate(rule.expression, frame.registers, memory, frame.cfa))
            elif rule.kind == "val_expression":
                known[register] = evaluate(rule.expression, frame.registers, memory, frame.cfa)
            else:  # undefined: of the return address, the mark of the outermost frame
                known[register] = None
    except (BadUnwindInfo, BadExpression, BadAddress, IndexError) as error:
        raise CannotUnwind(f"the caller of the code at {frame.pc:#x}: {error}") from None
    if not known[RIP]:
        raise EndOfStack("the end of the stack")
    return tuple(known)


def walk(
    registers: Registers, code_map: CodeMap, memory: Memory, most: int = MAX_FRAMES
) -> Iterable[NativeFrame]:
    """Yield the frames of a stopped thread, innermost first, at most so many.

    Raises:
        EndOfStack: after the last frame.
        CannotUnwind: it cannot go on.
    """
    exact = True
    previous = 0
    for _ in range(most):
        frame = make_frame(registers, code_map, memory, exact=exact)
        if frame.cfa <= previous:
            raise CannotUnwind(f"the stack goes the wrong way at {frame.pc:#x}")
        yield frame
        previous = frame.cfa
        registers = caller_registers(frame, code_map, memory, exact=exact)
        exact = frame.code.fde.signal_frame
    raise CannotUnwind(f"more than {most} frames")


def as_registers(values: Sequence[int]) -> Registers:
    """Return the registers from numbers in the order of ``NAMES``, which may be signed."""
    if len(values) != len(NAMES):
        raise CannotUnwind(f"{len(values)} registers instead of {len(NAMES)}")
    return tuple(value & MASK for value in values)


def _read(memory: Memory, address: int) -> int:
    return int.from_bytes(memory.read(address & MASK, 8), "little")
