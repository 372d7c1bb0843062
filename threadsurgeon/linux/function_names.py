"""The names of native functions, and which functions that are not exported belong to one that is."""

from __future__ import annotations

import re
import struct
from bisect import bisect_left
from collections.abc import Iterable

from threadsurgeon.linux.elf import NotElf
from threadsurgeon.linux.mappings import Image
from threadsurgeon.linux.memory import BadAddress, Memory
from threadsurgeon.linux.unwind import Code, CodeMap

# call and jmp to a place 32 bits away at most. The bytes may as well be a part of something else: a target only counts if a
# function begins there.
_DIRECT = re.compile(rb"[\xe8\xe9](?=(....))", re.DOTALL)
# mov x(%rip),%register; jmp *x(%rip); call *x(%rip); cmp $…: loads through a pointer variable
_INDIRECT = re.compile(rb"(?:[\x48\x4c]\x8b[\x05\x0d\x15\x1d\x25\x2d\x35\x3d]|\xff[\x15\x25])(?=(....))", re.DOTALL)
# lea x(%rip),%register
_LOAD_ADDRESS = re.compile(rb"[\x48\x4c]\x8d[\x05\x0d\x15\x1d\x25\x2d\x35\x3d](?=(....))", re.DOTALL)
# cmp $…,%rax; cmp $…,%register; cmp $…,x(%rip): up to the operand
_COMPARE = re.compile(rb"(?:\x48\x3d|[\x48\x49]\x81[\xf8-\xff]|\x48\x81\x3d....)\Z", re.DOTALL)
_MAX_FUNCTION = 1 << 16
_EXECUTABLE = 1


class FunctionNames:
    """Names of the functions of a process, as far as their files tell them. Addresses are the process's."""

    def __init__(self, code_map: CodeMap, memory: Memory) -> None:
        self._code_map = code_map
        self._memory = memory
        self._names: dict[int, dict[int, str]] = {}
        self._local: dict[tuple[int, int], str | None] = {}
        self._sorted: dict[int, list[int]] = {}

    def of_image(self, image: Image) -> dict[int, str]:
        """Return the names of one file's exported functions by their addresses in that file."""
        names = self._names.get(image.file.start)
        if names is None:
            names = self._names[image.file.start] = image.elf.functions()
            self._sorted[image.file.start] = sorted(names)
        return names

    def find(self, code: Code) -> str | None:
        """Return the name of a stretch of code; of one that is not exported where the file was not stripped."""
        return self.find_exported(code) or self._find_local(code)

    def find_exported(self, code: Code) -> str | None:
        """Return the exported name of a stretch of code."""
        names = self.of_image(code.image)
        name = names.get(code.fde.start)
        if name is None:  # assembler may have one unwind entry for a function that begins a little later
            addresses = self._sorted[code.image.file.start]
            index = bisect_left(addresses, code.fde.start)
            if index < len(addresses) and addresses[index] < code.fde.end:
                name = names[addresses[index]]
        return name

    def _find_local(self, code: Code) -> str | None:
        key = code.image.file.start, code.fde.start
        if key not in self._local:  # a table of symbols may be large, and a thread may stand still meanwhile
            self._local[key] = code.image.elf.local_function(code.fde.start)
        return self._local[key]

    def helpers(self, image: Image, functions: Iterable[str], depth: int) -> set[int]:
        """Return where the functions begin that are not exported, and that these exported ones call or jump to; and so on.

        ``depth`` is how often. Also through pointer variables, as those of allocators.
        """
        wanted = set(functions)
        starts = {address for address, name in self.of_image(image).items() if name in wanted}
        return self.called_from(image, starts, depth)

    def called_from(self, image: Image, functions: Iterable[int], depth: int) -> set[int]:
        """As ``helpers``, of functions that are given by their addresses in that file, with a name or without."""
        names = self.of_image(image)
        starts = set(self._code_map.table(image).starts)
        found: set[int] = set()
        current = set(functions)
        for _ in range(depth):
            targets: set[int] = set()
            for start in current:
                targets |= self._targets(image, start, starts)
            current = {target for target in targets if target not in names} - found
            found |= current
        return {start + image.bias for start in found}

    def mentioning(self, image: Image, functions: Iterable[int]) -> dict[int, tuple[int, ...]]:
        """Return where the functions of one file begin whose code holds the address of one of these, other than to call it.

        Compilers write ``if (pointer == function)`` and copy that function there, where a profile says that it mostly is so.
        With each: where all these comparisons are made, on the way into the copies; none where that is not clear.
        """
        wanted = {function - image.bias for function in functions}
        places: dict[int, int | None] = {}  # of the address → of the comparison
        for load in image.elf.loads:
            if not load.flags & _EXECUTABLE:
                continue
            try:
                code = image.elf.content(load.address, load.file_size)
            except NotElf:
                continue
            for match in _LOAD_ADDRESS.finditer(code):
                place = load.address + match.start()
                if place + 7 + struct.unpack("<i", match[1])[0] in wanted:
                    places[place] = None  # it may be kept in a register, and compared elsewhere
            for address in wanted:
                if not image.bias and address < 1 << 31:  # an executable at a fixed place: as an operand of 32 bits
                    for match in re.finditer(re.escape(struct.pack("<I", address)), code):
                        before = _COMPARE.search(code, max(0, match.start() - 7), match.start())
                        places[load.address + match.start()] = None if before is None else load.address + before.start()
        found: dict[int, list[int | None]] = {}
        for place, comparison in places.items():
            fde = self._code_map.table(image).find(place)
            if fde is not None:
                found.setdefault(fde.start + image.bias, []).append(comparison)
        return {
            start: () if None in made else tuple(place + image.bias for place in made if place is not None)
            for start, made in found.items()
        }

    def _targets(self, image: Image, start: int, starts: set[int]) -> set[int]:
        fde = self._code_map.table(image).find(start)
        if fde is None:
            return set()
        try:
            code = image.elf.content(start, min(fde.end - start, _MAX_FUNCTION))
        except NotElf:
            return set()
        targets = set()
        for match in _DIRECT.finditer(code):
            target = start + match.start() + 5 + struct.unpack("<i", match[1])[0]
            if target in starts and not fde.start <= target < fde.end:
                targets.add(target)
        for match in _INDIRECT.finditer(code):
            variable = start + match.start(1) + 4 + struct.unpack("<i", match[1])[0] + image.bias
            try:
                target = int.from_bytes(self._memory.read(variable, 8), "little") - image.bias
            except BadAddress:
                continue
            if target in starts:
                targets.add(target)
        return targets
