"""How a caller recognises that the function it called has failed: by NULL or by -1, as its next instructions tell.

What the eval loop does with a result is decided where it is tested: ``test %rax,%rax`` means a pointer, which is NULL on
error; ``test %eax,%eax`` with a jump by sign an int, which is -1 on error. A plain ``je`` after the latter tells nothing:
a few functions return 0 on error. gdb disassembles; the value is followed through registers and the stack until it is tested.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

NULL, MINUS_ONE = 0, -1

# Functions that return an int, 0 or more for success, whose result may be tested for 0 alone.
_MINUS_ONE_FUNCTIONS = re.compile(
    r"_?Py(Object_(SetItem|DelItem|SetAttr|DelAttr|IsTrue|Not|RichCompareBool|GenericSetAttr)|Sequence_Contains"
    r"|Dict_(SetItem|DelItem|Update|Merge\w*|Contains\w*)|Set_(Add|Update|Contains)|List_Append|Mapping_\w+KeyOptional"
    r"|Object_GetOptionalAttr|Object_LookupAttr)\w*$"
)

# Functions that return an object, NULL on error, whose result may be looked at by yet another function first.
_NULL_FUNCTIONS = re.compile(
    r"_?Py(Object_(Vectorcall\w*|VectorcallMethod|Call\w*|MakeTpCall|GetAttr\w*|GetItem|GetIter|RichCompare|Repr|Str|Format)"
    r"|Number_(?!Check|AsSsize)\w+|Iter_Next|Sequence_(List|Tuple|GetItem)|List_Extend|CFunction_\w+|Vectorcall_Call"
    r"|Tuple_\w+|Import_Import\w+|Long_(Add|Subtract|Multiply)|Unicode_(Concat|Join))$"
)
# It gets the result of a call as its third argument, and returns it if all is well: of pointers only (3.9 on).
_CHECK_RESULT = "_Py_CheckFunctionResult"
_THIRD_ARGUMENT = "rdx"

_BY_SIGN = ("s", "ns", "l", "ge", "le", "g")
_SCRATCH = ("rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11")
_WORDS = {f"%e{name}": f"r{name}" for name in ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp")} | {
    f"%r{number}d": f"r{number}" for number in range(8, 16)
}


def find_contract(
    instructions: Sequence[str], function: str | None, name_of: Callable[[int], str | None] = lambda _: None
) -> int | None:
    """Return what the function, if its name is known, is to return to the caller that goes on with these instructions.

    None where that cannot be told. ``name_of``: the name of the function at an address.
    """
    if function is not None and _NULL_FUNCTIONS.match(function):
        return NULL
    if function is not None and _MINUS_ONE_FUNCTIONS.match(function):
        return MINUS_ONE
    places = {"rax"}  # where the result is by now
    tested: int | None = None  # bits that were last compared with 0
    for text in instructions:
        mnemonic, operands = _split(text)
        condition = re.fullmatch(r"(?:j|set|cmov)(n?[esz]|[lg]e?)", mnemonic)
        if tested is not None and condition is not None:
            if condition[1] in _BY_SIGN:
                return MINUS_ONE
            return NULL if tested == 64 else None
        if mnemonic.startswith("call"):
            called = re.match(r"0x[0-9a-f]+$", "".join(operands))
            if _THIRD_ARGUMENT in places and called is not None and name_of(int(called[0], 16)) == _CHECK_RESULT:
                return NULL
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
