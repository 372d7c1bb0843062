"""A process as its core file shows it: its memory, threads and mapped files at the moment of the dump. core(5), elf(5).

What was not dumped, as code usually is not (``/proc/PID/coredump_filter``), is read from the mapped files, where those are
still the ones that were mapped.
"""

from __future__ import annotations

import mmap
import os
import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from threadsurgeon.errors import UnreadableCore
from threadsurgeon.linux.elf import PAGE, PT_LOAD, PT_NOTE, ElfFile, NotElf, Segment
from threadsurgeon.linux.mappings import Image, Mapping, choose_mapped_files, unlikeliness
from threadsurgeon.linux.memory import MAX_READ, BadAddress, read_each

ET_CORE, EM_X86_64 = 4, 62
PN_XNUM = 0xFFFF  # more program headers than fit: their number is in the first section header, elf(5)
EXECUTABLE = 1
MAX_HEADERS = 1 << 20
# Note types and structures of Linux on x86-64: include/uapi/linux/elf.h, elfcore.h.
NT_PRSTATUS, NT_PRPSINFO, NT_FILE = 1, 3, 0x46494C45
_PR_PID, _PR_REG, _FS_BASE = 32, 112, 21
_PR_UTIME = 48  # two timevals: user and system time
_PS_PID, _PS_FNAME = 24, 40


class CoreThread(NamedTuple):
    """A thread at the moment of the dump. ``pthread`` is its ``pthread_t`` (the register ``fs_base``).

    ``cpu_seconds``: None where the core does not tell. The kernel notes them, gdb's ``gcore`` does not.
    """

    tid: int
    pthread: int
    cpu_seconds: float | None


class CoreFile:
    """An opened core file: also a ``Memory``."""

    def __init__(self, path: str) -> None:
        """Map the file and read what it says of the process.

        Raises:
            UnreadableCore: it cannot be opened, or is not the core of an x86-64 process.
        """
        self.path = path
        self.pid = 0
        self.name = ""
        self.threads: tuple[CoreThread, ...] = ()
        self._mappings: list[Mapping] = []
        self._images: list[Image] | None = None
        self._files: list[tuple[int, int, int, ElfFile]] = []
        self._file_starts: list[int] = []
        # Why a mapped file is not used, by its path.
        self.unused: dict[str, str] = {}
        self._data = _open(path)
        try:
            segments = list(self._read_segments())
            for segment in segments:
                if segment.type == PT_NOTE:
                    self._read_notes(segment)
        except (struct.error, IndexError, OverflowError, ValueError):
            raise self._unreadable("its headers are damaged") from None
        self._loads = sorted((s for s in segments if s.type == PT_LOAD), key=lambda load: load.address)
        self._starts = [load.address for load in self._loads]
        if not self.threads:
            raise self._unreadable("it tells of no thread")
        self.pid = self.pid or self.threads[0].tid

    @property
    def missing(self) -> int:
        """How many bytes a truncated file lacks at its end, 0 for a whole one."""
        return max(0, max((load.offset + load.file_size for load in self._loads), default=0) - len(self._data))

    def _unreadable(self, why: str) -> UnreadableCore:
        return UnreadableCore(f"{self.path} cannot be read as a core file: {why} ({len(self._data)} bytes)")

    def _read_segments(self) -> Iterator[Segment]:
        kind, machine = struct.unpack_from("<HH", self._data, 16)
        if self._data[:6] != b"\x7fELF\x02\x01" or (kind, machine) != (ET_CORE, EM_X86_64):
            what = "another kind of ELF file" if self._data[:4] == b"\x7fELF" else "not an ELF file"
            raise UnreadableCore(
                f"{self.path} is not the core file of an x86-64 process but {what}", hint="of a living one: gcore PID"
            )
        table, sections = struct.unpack_from("<QQ", self._data, 32)
        size, count = struct.unpack_from("<HH", self._data, 54)
        if count == PN_XNUM:
            (count,) = struct.unpack_from("<I", self._data, sections + 44)
        for index in range(min(count, MAX_HEADERS)):
            segment, flags, offset, address, _, file_size, memory_size, _ = struct.unpack_from(
                "<IIQQQQQQ", self._data, table + index * size
            )
            yield Segment(segment, flags, offset, address, file_size, memory_size)

    def _read_notes(self, segment: Segment) -> None:
        position, end = segment.offset, segment.offset + segment.file_size
        if end > len(self._data):
            raise self._unreadable("it was truncated before its notes end")
        while position + 12 <= end:
            name_size, size, kind = struct.unpack_from("<III", self._data, position)
            start = position + 12 + (name_size + 3) // 4 * 4
            content = self._data[start : start + size]
            if self._data[position + 12 : position + 16] == b"CORE":
                self._take_note(kind, content)
            position = start + (size + 3) // 4 * 4

    def _take_note(self, kind: int, content: bytes) -> None:
        if kind == NT_PRSTATUS:
            (tid,) = struct.unpack_from("<i", content, _PR_PID)
            (pthread,) = struct.unpack_from("<Q", content, _PR_REG + _FS_BASE * 8)
            seconds, micros, more, more_micros = struct.unpack_from("<qqqq", content, _PR_UTIME)
            used = seconds + more + (micros + more_micros) / 1e6
            self.threads = (*self.threads, CoreThread(tid, pthread, used or None))
        elif kind == NT_PRPSINFO:
            (self.pid,) = struct.unpack_from("<i", content, _PS_PID)
            self.name = content[_PS_FNAME : _PS_FNAME + 16].split(b"\0")[0].decode(errors="replace")
        elif kind == NT_FILE:
            self._mappings = list(_read_files(content))

    @property
    def images(self) -> list[Image]:
        """The ELF files that were mapped and are still the same, the likeliest homes of an interpreter first."""
        if self._images is None:
            self._images = sorted(self._open_images(), key=lambda image: unlikeliness(image.file))
        return self._images

    def _open_images(self) -> Iterator[Image]:
        files = {path: elf for path in {mapping.path for mapping in self._mappings} if (elf := self._open_elf(path))}
        # gcore leaves out what it does not dump, permissions included: what is code is for the file itself to say.
        code = {
            (path, load.offset // PAGE * PAGE) for path, elf in files.items() for load in elf.loads if load.flags & EXECUTABLE
        }
        mappings = [each._replace(executable=(each.path, each.offset) in code) for each in self._mappings]
        same = set()
        for file in choose_mapped_files(self.pid, mappings):
            elf = files.get(file.path)
            if elf is None or not file.loaded:
                continue
            # The first page, with the headers and the build id, is dumped unless one asked for less.
            try:
                if self._read_dumped(file.start, len(elf.head)) != elf.head:
                    self.unused[file.path] = "it is no longer the file that was mapped then"
                    continue
            except BadAddress:
                self.unused[file.path] = "its first page was not dumped, so that it cannot be told from another of that name"
                continue
            same.add(file.path)
            bias = elf.load_bias(file.start, file.offset)
            if bias is not None:
                yield Image(file, elf, bias)
        self._files = sorted((m.start, m.end, m.offset, files[m.path]) for m in mappings if m.path in same)
        self._file_starts = [start for start, *_ in self._files]

    def _open_elf(self, path: str) -> ElfFile | None:
        try:
            return ElfFile(path)
        except NotElf:
            return None
        except OSError as error:
            self.unused[path] = f"not readable here: {error.strerror}"
            return None

    def read(self, address: int, size: int) -> bytes:
        """Return exactly ``size`` bytes.

        Raises:
            BadAddress: they are neither in the core nor in a file that was mapped.
        """
        if not 0 < size <= MAX_READ or address < 0:
            raise BadAddress(address, size)
        pieces = []
        position, end = address, address + size
        while position < end:
            piece = self._piece(position, end - position)
            if not piece:
                raise BadAddress(address, size)
            pieces.append(piece)
            position += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes | None]:
        """Return the bytes of each (address, size), None for each that cannot be read."""
        return read_each(self, ranges)

    def _piece(self, address: int, size: int) -> bytes:
        """Return as many of the bytes as stand together, none where the first is not there."""
        index = bisect_right(self._starts, address) - 1
        if index >= 0:
            load = self._loads[index]
            offset = address - load.address
            if offset < load.file_size:
                begin = load.offset + offset
                return self._data[begin : begin + min(size, load.file_size - offset)]
        if index + 1 < len(self._starts):
            size = min(size, self._starts[index + 1] - address)
        return self._read_mapped(address, size)

    def _read_dumped(self, address: int, size: int) -> bytes:
        content = b""
        while len(content) < size and (piece := self._piece(address + len(content), size - len(content))):
            content += piece
        if len(content) < size:
            raise BadAddress(address, size)
        return content

    def _read_mapped(self, address: int, size: int) -> bytes:
        index = bisect_right(self._file_starts, address) - 1
        if index < 0:
            return b""
        start, end, offset, elf = self._files[index]
        if address >= end:
            return b""
        return elf.raw(offset + address - start, min(size, end - address))


def _open(path: str) -> mmap.mmap:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if os.fstat(descriptor).st_size < 64:
                raise UnreadableCore(f"{path} is not a core file: it has only {os.fstat(descriptor).st_size} bytes")
            return mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UnreadableCore(f"{path} cannot be opened: {error.strerror}") from None


def _read_files(content: bytes) -> Iterator[Mapping]:
    """Take NT_FILE apart: count, page size, (start, end, offset in pages) of each, and then their names."""
    count, page_size = struct.unpack_from("<QQ", content)
    names = content[16 + count * 24 :].split(b"\0")
    for (start, end, offset), name in zip(struct.iter_unpack("<QQQ", content[16 : 16 + count * 24]), names, strict=False):
        yield Mapping(start, end, offset * page_size, os.fsdecode(name), executable=False)
