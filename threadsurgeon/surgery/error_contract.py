"""How a caller recognises that the function it called has failed: by NULL or by -1, as its next instructions tell.

What the eval loop does with a result is decided where it is tested: ``test %rax,%rax`` means a pointer, which is NULL on
error; ``test %eax,%eax`` with a jump by sign an int, which is -1 on error. A plain ``je`` after the latter tells nothing:
a few functions return 0 on error. gdb disassembles; the value is followed through registers and the stack until it is tested.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence

NULL, MINUS_ONE = 0, -1
_UNCLEAR = 1
MOST_BLOCKS = 12

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


Disassemble = Callable[[int], Sequence[tuple[int, str]]]
"""Returns instructions, each as address and text, from an address to the next unconditional jump or return."""


def find_contract(
    disassemble: Disassemble, return_address: int, function: str | None, name_of: Callable[[int], str | None]
) -> int | None:
    """Return what the function, if its name is known, is to return to the caller that goes on at that address.

    None where that cannot be told. ``name_of``: the name of the function at an address.
    """
    if function is not None and _NULL_FUNCTIONS.match(function):
        return NULL
    if function is not None and _MINUS_ONE_FUNCTIONS.match(function):
        return MINUS_ONE
    # Where to look, with where the result is by then. Straight on first; the ways that branch off in their order.
    ways: deque[tuple[int, frozenset[str]]] = deque([(return_address, frozenset(("rax",)))])
    seen: set[int] = set()
    for _ in range(MOST_BLOCKS):
        if not ways:
            break
        address, places = ways.popleft()
        if address in seen:
            continue
        found, more = _follow(disassemble(address), set(places), seen, name_of)
        if found is not None:
            return found if found in (NULL, MINUS_ONE) else None
        ways.extend(more)
    return None


def _follow(
    instructions: Sequence[tuple[int, str]], places: set[str], seen: set[int], name_of: Callable[[int], str | None]
) -> tuple[int | None, list[tuple[int, frozenset[str]]]]:
    """Return the contract if these instructions tell, or else where to look further; _UNCLEAR where that is no use."""
    ways: list[tuple[int, frozenset[str]]] = []
    tested: int | None = None  # bits that were last compared with 0
    for address, text in instructions:
        if address in seen or not places:
            return None, ways
        seen.add(address)
        mnemonic, operands = _split(text)
        condition = re.fullmatch(r"(?:j|set|cmov)(n?[esz]|[lg]e?)", mnemonic)
        if tested is not None and condition is not None:
            if condition[1] in _BY_SIGN:
                return MINUS_ONE, []
            return (NULL if tested == 64 else _UNCLEAR), []
        target = re.match(r"0x[0-9a-f]+$", "".join(operands))
        if mnemonic.startswith("call"):
            if _THIRD_ARGUMENT in places and target is not None and name_of(int(target[0], 16)) == _CHECK_RESULT:
                return NULL, []
            places -= set(_SCRATCH)
            tested = None
        elif mnemonic.startswith("j"):
            if target is not None:
                way = (int(target[0], 16), frozenset(places))
                ways = [way, *ways] if mnemonic.startswith("jmp") else [*ways, way]
        elif mnemonic.startswith("test") and len(operands) == 2 and operands[0] == operands[1]:
            tested = _bits(operands[0], mnemonic) if _place(operands[0]) in places else None
        elif mnemonic.startswith("cmp") and len(operands) == 2:
            tested = None
            if _place(operands[1]) in places and operands[0].startswith("$"):
                value = int(operands[0][1:], 16)
                if value in (0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF):
                    return MINUS_ONE, []
                if value == 0:
                    tested = _bits(operands[1], mnemonic)
        elif mnemonic in ("mov", "movl", "movq", "movslq") and len(operands) == 2:
            source, destination = _place(operands[0]), _place(operands[1])
            if source in places:
                places.add(destination)
            else:
                places.discard(destination)
        elif operands and not mnemonic.startswith(("push", "nop", "test", "endbr")):
            places.discard(_place(operands[-1]))
            if mnemonic not in ("lea", "pop") and not mnemonic.startswith(("mov", "set", "cmov")):
                tested = None  # it sets the flags
    return None, ways


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
