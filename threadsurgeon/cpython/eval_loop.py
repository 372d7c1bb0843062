"""Which native code is the interpreter's eval loop: the frames that run bytecode.

``_PyEval_EvalFrameDefault`` is exported by every version, but from 3.13 on optimised builds split it: what runs lies far from
the symbol, without a name. It is found by the loop's dispatch table: a run of 256 (3.15: 512) consecutive code pointers
that lead inside the same one or two stretches of code; other runs of pointers lead to the starts of functions.
An interpreter that consists of tail calls (clang, 3.14 on) has no such table: there nothing is found but the symbol.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence

from threadsurgeon.cpython.layout import Layout
from threadsurgeon.cpython.runtime import Runtime
from threadsurgeon.linux.eh_frame import BadUnwindInfo
from threadsurgeon.linux.memory import BadAddress, Memory
from threadsurgeon.linux.unwind import CALLEE_SAVED, Code, CodeMap, NativeFrame

SYMBOL = "_PyEval_EvalFrameDefault"
TABLE_LENGTH = 256
# A table of this length has at least one entry at each of these distances: the look at a few million words is a look at few.
STRIDE = TABLE_LENGTH // 2
MOST_PARTS = 2
# An instruction that does not exist shares its entry with others that do not; most have their own.
FEWEST_TARGETS = 100
FEWEST_ENTRIES = 32
EXECUTABLE = 1
MAX_FRAMES = 10_000

_pointer = struct.Struct("<Q").unpack_from


class EvalLoop:
    """The eval loop's code: one stretch, or the few that a compiler split it into."""

    def __init__(self, parts: Sequence[Code]) -> None:
        self.parts = tuple(parts)

    def __contains__(self, code: Code) -> bool:
        return any(part.start == code.start for part in self.parts)


def find_eval_loop(memory: Memory, runtime: Runtime, code_map: CodeMap) -> EvalLoop:
    """Return the eval loop. Empty where it cannot be told."""
    parts: dict[int, Code] = {}
    symbol = runtime.image.symbol(SYMBOL)
    for address in ([] if symbol is None else [symbol]) + list(_find_table_targets(memory, runtime, code_map)):
        try:
            code = code_map.find(address)
        except BadUnwindInfo:
            continue
        if code is not None:
            parts[code.start] = code
    return EvalLoop(list(parts.values()))


def _find_table_targets(memory: Memory, runtime: Runtime, code_map: CodeMap) -> Iterator[int]:
    """Yield an address in each stretch of code that a dispatch table leads into."""
    image = runtime.image
    loads = image.elf.loads
    code_ranges = [(load.address + image.bias, load.memory_size) for load in loads if load.flags & EXECUTABLE]
    if not code_ranges:
        return
    low, high = min(start for start, _ in code_ranges), max(start + size for start, size in code_ranges)
    starts = code_map.table(image).starts
    if not starts:  # linked without --eh-frame-hdr: nothing tells where functions begin
        return
    for load in loads:
        if load.flags & EXECUTABLE and len(loads) > 1 and not load.flags & 2:
            continue
        start = (load.address + image.bias + 7) // 8 * 8
        try:  # from memory, not from the file: there the addresses are relocated
            content = memory.read(start, load.file_size // 8 * 8 - 8)
        except BadAddress:
            continue
        words = array("Q", content)
        for first, last in _find_runs(words, low, high):
            indices = [bisect_right(starts, word - image.bias) - 1 for word in words[first:last]]
            inside = [starts[index] != word - image.bias for index, word in zip(indices, words[first:last], strict=True)]
            for table_start in _find_tables(indices):
                table = slice(table_start, table_start + TABLE_LENGTH)
                if sum(inside[table]) >= TABLE_LENGTH * 3 // 4 and len(set(words[first:last][table])) >= FEWEST_TARGETS:
                    parts = Counter(indices[table]).most_common()
                    yield from (starts[index] + image.bias for index, count in parts if count >= FEWEST_ENTRIES)


def _find_tables(indices: Sequence[int]) -> Iterator[int]:
    """Yield where ``TABLE_LENGTH`` in a row lead to few stretches of code: not each place, but one in each such row.

    A run may hold other tables of pointers besides.
    """
    window = Counter(indices[:TABLE_LENGTH])
    last = -TABLE_LENGTH
    for position in range(len(indices) - TABLE_LENGTH + 1):
        if position:
            gone = indices[position - 1]
            window[gone] -= 1
            if not window[gone]:
                del window[gone]
            window[indices[position + TABLE_LENGTH - 1]] += 1
        if len(window) <= MOST_PARTS and position >= last + TABLE_LENGTH // 8:
            last = position
            yield position


def _find_runs(words: array[int], low: int, high: int) -> Iterator[tuple[int, int]]:
    """Yield (first, last) of each run of at least ``TABLE_LENGTH`` words that are addresses of code."""
    done = 0
    for index in range(STRIDE, len(words), STRIDE):
        if index < done or not low <= words[index] < high or not low <= words[index - STRIDE] < high:
            continue
        first, last = index, index
        while first > 0 and low <= words[first - 1] < high:
            first -= 1
        while last < len(words) and low <= words[last] < high:
            last += 1
        done = last
        if last - first >= TABLE_LENGTH:
            yield first, last


def runs_innermost_frame(frame: NativeFrame, memory: Memory, layout: Layout, thread_state: int) -> bool:
    """Say whether this native frame, which stands in the eval loop, is the one that runs the thread's innermost Python frame.

    The interpreter's own records must agree with the native stack: without this, an eval loop that was not recognised above
    it would be cut away with the rest, and its Python frames would be left linked.

    Raises:
        BadAddress: the records lead nowhere.
    """
    state = layout.thread_state
    stack_pointer = frame.registers[7] or 0

    def read_pointer(address: int) -> int:
        return int(_pointer(memory.read(address, 8))[0])

    if layout.frame_object is not None:
        # To 3.10 each eval loop runs one frame object, which it keeps in a register or on its stack.
        assert state.frame is not None
        innermost = read_pointer(thread_state + state.frame)
        if any(frame.registers[register] == innermost for register in CALLEE_SAVED):
            return True
        size = frame.cfa - stack_pointer
        return 0 < size <= 1 << 16 and innermost in array("Q", memory.read(stack_pointer, size // 8 * 8))
    if state.cframe is not None:
        # 3.11, 3.12: the innermost _PyCFrame is a local variable of the eval loop.
        return stack_pointer <= read_pointer(thread_state + state.cframe) < frame.cfa
    # 3.13 on: below the Python frames that one eval loop runs is its entry frame, a local variable of it.
    assert state.current_frame is not None
    assert layout.interpreter_frame is not None
    address = read_pointer(thread_state + state.current_frame)
    for _ in range(MAX_FRAMES):
        if not address:
            return False
        if memory.read(address + layout.interpreter_frame.owner, 1)[0] >= 3:  # FRAME_OWNED_BY_CSTACK, …_BY_INTERPRETER
            return stack_pointer <= address < frame.cfa
        address = read_pointer(address + layout.interpreter_frame.previous)
    return False
