"""The files mapped into a process, each opened as the target sees it: in a container, below a root, or deleted."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from threadsurgeon.errors import NoSuchProcess, PermissionDenied
from threadsurgeon.linux.elf import ElfFile, NotElf
from threadsurgeon.linux.memory import BadAddress, ProcessMemory

# address-address perms offset device inode path; only lines with a path. proc_pid_maps(5)
_LINE = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) (....) ([0-9a-f]+) (\S+) \d+ +(/.*)$", re.MULTILINE)


# Its loader is the library, under one name or the other; glibc's is libc.so.6 or libc-2.31.so.
_MUSL = re.compile(r"ld-musl-|libc\.musl-|libc\.so( \(deleted\))?$")
_INTERPRETER = re.compile(r"(lib)?python[\d.]+[a-z]*(\.so[\d.]*)?( \(deleted\))?")


class ReplacedFile(OSError):
    """At the path of a mapped file there is another one."""


class MappedFile(NamedTuple):
    """A file that a process has mapped, by the lowest of its mappings. ``path`` is the target's own word for it.

    ``loaded``: it has code that can run; otherwise it is only read as data.
    """

    pid: int
    path: str
    start: int
    end: int
    offset: int
    loaded: bool = True

    def open_elf(self) -> ElfFile:
        """Open the very file that is mapped.

        Raises:
            NotElf: it is something else.
            ReplacedFile: there is another file at its path now, and the mapped one is not readable for us.
            OSError: not readable for us.
        """
        # The link in map_files leads to the mapped file itself even where its path is deleted, replaced, or means
        # another file here. It needs privileges (CAP_CHECKPOINT_RESTORE); names there are not padded, unlike in maps.
        try:
            return ElfFile(f"/proc/{self.pid}/map_files/{self.start:x}-{self.end:x}")
        except (PermissionError, FileNotFoundError):
            elf = ElfFile(f"/proc/{self.pid}/root{self.path.removesuffix(' (deleted)')}")
        # Addresses of another build would be those of anything. The header, the table of segments and the build id stand in
        # the first page, which is mapped as it is in the file.
        try:
            head = ProcessMemory(self.pid).read(self.start, len(elf.head)) if self.offset == 0 else elf.head
        except (BadAddress, PermissionDenied):
            return elf  # whoever reads on will find out why
        if head != elf.head:
            raise ReplacedFile(errno.ESTALE, "replaced since it was mapped", self.path)
        return elf


class Mapping(NamedTuple):
    """A stretch of a process's memory that shows a file, from ``offset`` in it on."""

    start: int
    end: int
    offset: int
    path: str
    executable: bool


def list_mapped_files(pid: int) -> list[MappedFile]:
    """Return each mapped file once: where it is loaded, else where it is read as data.

    Raises:
        NoSuchProcess: it ended.
        PermissionDenied: another user's process.
    """
    try:
        with open(f"/proc/{pid}/maps", "rb") as maps:
            text = maps.read()
    except (FileNotFoundError, ProcessLookupError):
        raise NoSuchProcess(f"there is no process {pid}") from None
    except PermissionError:
        raise PermissionDenied(f"/proc/{pid}/maps is not readable for us") from None
    return choose_mapped_files(pid, _parse(text))


def _parse(text: bytes) -> Iterator[Mapping]:
    for match in _LINE.finditer(text):
        start, end, permissions, offset, device, path = match.groups()
        if not path.startswith(b"/dev/") and device != b"00:00":
            yield Mapping(int(start, 16), int(end, 16), int(offset, 16), os.fsdecode(path), b"x" in permissions)


def choose_mapped_files(pid: int, mappings: Iterable[Mapping]) -> list[MappedFile]:
    """Return each mapped file once: where it is loaded, else where it is read as data. ``mappings`` are by address."""
    files: dict[str, MappedFile] = {}
    ranks: dict[str, int] = {}
    first: MappedFile | None = None
    previous = ("", 0)
    for start, end, position, path, executable in mappings:
        if first is None or path != previous[0] or position <= previous[1]:
            first = MappedFile(pid, path, start, end, position)
        previous = path, position
        # A program may also read its library as data, at a lower address: the loaded one has code that can run. And libffi
        # maps pages of its code once more, for trampolines (tramp.c): the loaded one begins where the file does.
        rank = 0 if not executable else 1 if first.offset else 2
        if rank > ranks.get(path, -1):
            files[path], ranks[path] = first._replace(loaded=rank > 0), rank
    return list(files.values())


def uses_musl(pid: int) -> bool:
    """Say whether the process runs with musl as its C library; a program that is linked with it statically does not show it.

    Raises:
        NoSuchProcess: it ended.
        PermissionDenied: another user's process.
    """
    return any(_MUSL.match(os.path.basename(file.path)) for file in list_mapped_files(pid))


class Image(NamedTuple):
    """An ELF file at its place in a process."""

    file: MappedFile
    elf: ElfFile
    bias: int

    def symbol(self, name: str) -> int | None:
        """Return the address of a defined dynamic symbol in the process, or None."""
        address = self.elf.symbol(name)
        return None if address is None else address + self.bias

    def writable_ranges(self) -> list[tuple[int, int]]:
        """Return (address, size) of the image's writable segments: its .data and .bss."""
        return [(load.address + self.bias, load.memory_size) for load in self.elf.loads if load.flags & 2]


def resembles_interpreter(path: str) -> bool:
    """Say whether a file is called as interpreters are."""
    return _INTERPRETER.fullmatch(os.path.basename(path)) is not None


def unlikeliness(file: MappedFile) -> int:
    """Return a number that is the smaller the likelier the file holds an interpreter."""
    name = os.path.basename(file.path)
    return 0 if "libpython" in name else 1 if "python" in name else 2 if ".so" not in name else 3


def iterate_images(pid: int) -> Iterator[Image]:
    """Yield the ELF files of a process, the likeliest homes of an interpreter first."""
    refused: OSError | None = None
    found = False
    for file in sorted((file for file in list_mapped_files(pid) if file.loaded), key=unlikeliness):
        try:
            elf = file.open_elf()
        except NotElf:
            continue
        except OSError as error:
            if isinstance(error, ReplacedFile) and resembles_interpreter(file.path):
                raise PermissionDenied(
                    f"{file.path} was replaced since process {pid} began; only root can open the one that it runs"
                ) from None
            refused = error
            continue
        bias = elf.load_bias(file.start, file.offset)
        if bias is not None:
            found = True
            yield Image(file, elf, bias)
    if not found and refused is not None:
        raise PermissionDenied(f"no file that process {pid} has mapped can be opened: {refused}")
