"""How a caller recognises that the function it called has failed: by NULL or by -1, as its next instructions tell.

What the eval loop does with a result is decided where it is tested: ``test %rax,%rax`` means a pointer, which is NULL on
error; ``test %eax,%eax`` with a jump by sign an int, which is -1 on error. A plain ``je`` after the latter tells nothing:
a few functions return 0 on error. gdb disassembles; the value is followed through registers and the stack until it is tested.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

NULL, MINUS_ONE = 0, -1

# Functions that return an int, 0 or more for success, whose result may be tested for 0 alone.
_MINUS_ONE_FUNCTIONS = re.compile(
    r"_?Py(Object_(SetItem|DelItem|SetAttr|DelAttr|IsTrue|Not|RichCompareBool|GenericSetAttr)|Sequence_Contains"
    r"|Dict_(SetItem|DelItem|Update|Merge\w*|Contains\w*)|Set_(Add|Update|Contains)|List_Append|Mapping_\w+KeyOptional"
    r"|Object_GetOptionalAttr|Object_LookupAttr)\w*$"
)

_BRANCH_BY_SIGN = ("js", "jns", "jl", "jge", "jle", "jg")
_BRANCH_BY_ZERO = ("je", "jne", "jz", "jnz")
_SCRATCH = ("rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11")
_WORDS = {f"%e{name}": f"r{name}" for name in ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp")} | {
    f"%r{number}d": f"r{number}" for number in range(8, 16)
}


def find_contract(instructions: Sequence[str], function: str | None) -> int | None:
    """Return what the function, if its name is known, is to return to the caller that goes on with these instructions.

    None where that cannot be told.
    """
    if function is not None and _MINUS_ONE_FUNCTIONS.match(function):
        return MINUS_ONE
    places = {"rax"}  # where the result is by now
    tested: int | None = None  # bits that were last compared with 0
    for text in instructions:
        mnemonic, operands = _split(text)
        if tested is not None and mnemonic.startswith("j"):
            if mnemonic in _BRANCH_BY_SIGN:
                return MINUS_ONE
            if mnemonic in _BRANCH_BY_ZERO:
                return NULL if tested == 64 else None
            tested = None
        if mnemonic.startswith("call"):
            places -= set(_SCRATCH)
        elif mnemonic.startswith("test") and len(operands) == 2 and operands[0] == operands[1]:
            tested = _bits(operands[0], mnemonic) if _place(operands[0]) in places else None
        elif mnemonic.startswith("cmp") and len(operands) == 2:
            tested = None
            if _place(operands[1]) in places and operands[0].startswith("$"):
                value = int(operands[0][1:], 16)
                bits = _bits(operands[1], mnemonic)
                if value in (0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF):
                    return MINUS_ONE
                if value == 0:
                    tested = bits
        elif mnemonic in ("mov", "movl", "movq", "movslq", "cltq") and len(operands) == 2:
            source, destination = _place(operands[0]), _place(operands[1])
            if source in places:
                places.add(destination)
            else:
                places.discard(destination)
        elif operands and not mnemonic.startswith(("j", "push", "nop", "test", "cmp", "endbr")):
            places.discard(_place(operands[-1]))
            if mnemonic not in ("lea", "movzbl", "movzwl", "pop") and not mnemonic.startswith(("mov", "set")):
                tested = None  # it sets the flags
        if not places:
            return None
    return None


def _split(text: str) -> tuple[str, list[str]]:
    mnemonic, _, rest = text.partition(" ")
    rest = rest.split("#")[0].split("<")[0].strip()
    return mnemonic, [part.strip() for part in re.split(r",(?![^(]*\))", rest)] if rest else []


def _place(operand: str) -> str:
    """Return one name for a register or a place in the frame, whatever its width."""
    if operand in _WORDS:
        return _WORDS[operand]
    return operand.removeprefix("%")


def _bits(operand: str, mnemonic: str) -> int:
    if operand in _WORDS or mnemonic.endswith("l"):
        return 32
    if re.fullmatch(r"%r(\w\w|\d+)", operand) or mnemonic.endswith("q"):
        return 64
    return 8
